"""The project one deployment later."""

from project import LEDGER, app, running


@app.task(bind=True)
def newcomer(self):
    with running(LEDGER, self.request.id):
        return self.request.id
