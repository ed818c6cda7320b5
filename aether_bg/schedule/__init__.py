"""The schedule language: what the schedule of a job can say, and which instants it means.

    parse("30 2 * * MON", "Europe/Berlin").upcoming(3)

| text | meaning |
|---|---|
| `@once` | now, once. An aware `datetime`: once, then. A `timedelta`: once, after it |
| `@hourly @daily @midnight @weekly @monthly @yearly @annually` | as usual, in any case |
| `@every 1h30m`, `@every PT90S` | anchor + k * length, k = 1, 2, …: without drift; at least 100 ms |
| 5 fields `m h dom mon dow` | cron: numbers, names, ranges, lists, steps, `7` = Sunday |
| 6 fields `s m h dom mon dow` | the same with seconds first, as Dapr, Quartz and systemd have them |
| `L` in dom, `5#2` in dow, `?` for `*` in both | last day; second Friday |
| `CRON_TZ=Europe/Berlin …` | an IANA zone before fields or word, the same as `timezone=`; default UTC |

The rules, each with its source:

* **Days.** A day field that contains `*` or `?` (`*/2` too) is unrestricted, and then both day fields must
  match; when both are restricted, either is enough (crontab(5) of Vixie cron, `DOM_STAR` and `DOW_STAR`).
* **Ranges.** Numbers ascend; names wrap (`FRI-MON`), a step counting along the wrap. `5/15` is `5-59/15`,
  `5-5` is 5. A step is 1 to the number of values of its field. Text that could mean several things is refused.
* **Fixed or frequency** (cron(8) of Debian: jobs with `*` or `*/n` in minute or hour follow real time, others
  the wall clock). The minute and hour fields decide, as written: one that contains `*` or `/` makes a
  frequency; numbers, lists and ranges are fixed, even `0-23`. The seconds do not matter.
* **A fixed time** runs when the wall clock first reaches or passes it: in a gap at the gap's first instant
  afterwards, in a repeated hour the first time only; once for each local date named, even a date that
  the zone skipped (Apia, 2011-12-30). Times that fall on the same instant are one occurrence.
* **A frequency** runs whenever the wall clock shows a matching time: twice in a repeated hour, not at all
  in a skipped one.
* **Durations** are Go's (time.ParseDuration, its units ms, s, m, h) or ISO 8601's without years and months.
* **Instants** increase strictly, and are whole seconds for cron; `after` is exclusive, to the microsecond.

`parse` raises `InvalidSchedule` for text that it cannot read, with the field, the reason and an example that works.
croniter finds the next matching wall time. This package decides what is accepted, and what daylight saving does.
"""

from ._model import Schedule, Upcoming
from ._parse import load, parse

__all__ = ["Schedule", "Upcoming", "load", "parse"]
