"""A service whose jobs Dapr schedules. The code does not mention Dapr: the sidecar's environment does."""

from __future__ import annotations

import attrs

from aether_bg import Aether

app = Aether("jobs.db")


@attrs.define
class SendEmail:
    to: str
    subject: str


@app.handler("SendEmail", retries=3, timeout=30)
async def send_email(mail: SendEmail) -> None:
    print(f"to {mail.to}: {mail.subject}", flush=True)


@app.handler("Report", schedule="0 7 * * mon-fri")
async def report() -> None:
    await app.enqueue(send_email, payload=SendEmail("team@example.org", "the daily figures"))


if __name__ == "__main__":
    app.run()
