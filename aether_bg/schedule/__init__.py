"""The schedule language: what the schedule of a job can say, and which instants it means.

    parse("30 2 * * MON", "Europe/Berlin").upcoming(3)

| text | meaning |
|---|---|
| `@once` | now, once. An aware `datetime`: once, at that time. A `timedelta`: once, after it |
| `@hourly @daily @midnight @weekly @monthly @yearly @annually` | as usual, in any case |
| `@every 1h30m`, `@every PT90S` | anchor + k * length, k = 1, 2, …: without drift; at least 100 ms |
| `@every 3 days at 02:30`, `@every 2 weeks on MON at 09:00` | a local time on every nth day or week, from `start` |
| 5 fields `m h dom mon dow` | cron: numbers, names, ranges, lists, steps, `7` = Sunday |
| 6 fields `s m h dom mon dow` | the same with seconds first, as Dapr, Quartz and systemd have them |
| `L`, `L-3`, `15W`, `LW`, `L-3W` in dom | last day, three before it; the weekday (Monday to Friday) nearest to a day |
| `5#2`, `5L` in dow; `?` for `*` in both | second Friday, last Friday |
| `CRON_TZ=Europe/Berlin …` | an IANA zone before fields or word, the same as `timezone=`; default UTC |

The rules, each with its source:

* **Days.** A day field that contains `*` or `?` (`*/2` too) is unrestricted, and then both day fields must
  match; when both are restricted, either is enough (crontab(5) of Vixie cron, `DOM_STAR` and `DOW_STAR`).
* **Ranges** wrap (`FRI-MON`, `22-2`), a step counting along the wrap. `5/15` is `5-59/15`, `5-5` is 5. A step is 1
  to the number of values of its field. Text that could mean several things is refused.
* **Days and weeks** are counted from the local date of `start`, or else of the creation. The first week is
  the seven days that begin there.
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
croniter finds the next matching wall time for everything that it can express. This package decides what is accepted,
and what daylight saving does. docs/how-to/schedules.md is the page for users.
"""

from ._model import Schedule, Upcoming
from ._parse import load, parse

__all__ = ["Schedule", "Upcoming", "load", "parse"]
