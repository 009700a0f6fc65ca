"""A Bottle application, unmodified but for the port it listens on."""

import os

from bottle import Bottle, request

app = Bottle()


@app.get("/<path:path>")
def show(path):
    return {"path": "/" + path, "agent": request.get_header("User-Agent")}


@app.get("/")
def root():
    return "It serves.\n"


app.run(host="127.0.0.1", port=int(os.environ["PORT"]), quiet=True)
