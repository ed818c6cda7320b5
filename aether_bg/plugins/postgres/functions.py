"""`SELECT aether_bg.enqueue(…)`: a one-shot from SQL, for triggers and for programs in other languages (W13)."""

from __future__ import annotations

from typing import Any, Final

import attrs

from aether_bg.model import JobInfo
from aether_bg.plugins.postgres.columns import JOB_COLUMNS

_VALUES: Final = {
    "id": "made", "job_name": "coalesce(enqueue.name, left(enqueue.handler, 160) || '-' || made)",
    "handler_name": "enqueue.handler", "payload": "coalesce(enqueue.payload, 'null')",
    "expression_value": "CASE WHEN enqueue.due IS NULL THEN '@once' ELSE '@at ' || stamp || 'Z' END",
    "extra_properties": "'{}'", "status": "0", "misfire": "'once'", "created_by": "session_user",
    "modified_by": "session_user", "due_at": "coalesce(enqueue.due, moment)",
    "occurrence": "coalesce(enqueue.due, moment)",
    **dict.fromkeys(("created_at", "modified_at", "anchor"), "moment"),
}  # fmt: skip


def _value(name: str) -> str:
    default: Any = attrs.fields_dict(JobInfo)[name].default
    if name in _VALUES:
        return _VALUES[name]
    return "NULL" if default is None else repr(default).lower()  # a number or a truth value


ENQUEUE: Final = f"""
CREATE FUNCTION {{schema}}.enqueue(
    handler text, payload json DEFAULT NULL, name text DEFAULT NULL, due timestamptz DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
    made uuid := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
        substring(int8send(floor(extract(epoch FROM moment) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1),
        'hex')::uuid;  -- version 7: ids grow with time
    stamp text := replace(to_char(due AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', '');
    found uuid;
BEGIN
    IF coalesce(enqueue.handler, '') !~ '^[^[:cntrl:]/\\\\#?]{{1,200}}$'
       OR enqueue.name !~ '^[^[:cntrl:]/\\\\#?]{{1,200}}$' THEN
        RAISE EXCEPTION 'handler and name must have 1 to 200 characters, no control characters and none of /\\#?'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        INSERT INTO {{schema}}.jobs ({", ".join(JOB_COLUMNS)})
        VALUES ({", ".join(_value(name) for name in JOB_COLUMNS)})
        ON CONFLICT (job_name) WHERE holds_name DO NOTHING RETURNING id INTO found;
        EXIT WHEN found IS NOT NULL;
        SELECT id INTO found FROM {{schema}}.jobs WHERE job_name = enqueue.name AND holds_name;
        EXIT WHEN found IS NOT NULL;
    END LOOP;
    RETURN found;
END $$;
"""
"""A held name returns the job that holds it. The handler checks the payload."""
