"""What is stored to do harm, and the screens."""

SECRET = "4111-SECRET"
MARK = "<script>alert(1)</script><b onmouseover=x>\u202e&\"'\u2066"
NAME = "<img src=x onerror=alert(1)>"
"""No name may have a slash or a direction character."""
SCREENS = ("", "jobs", "failures", "recurring", "handlers", "processes", "system")
