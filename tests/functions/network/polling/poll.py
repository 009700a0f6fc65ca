"""Polls the Runtime API with the standard library alone, and fetches the URL in each event's query."""

import http.client
import json
import os
import urllib.request

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    reply = api.getresponse()
    event = json.loads(reply.read())
    number = reply.headers["Lambda-Runtime-Aws-Request-Id"]
    with urllib.request.urlopen(event["queryStringParameters"]["url"], timeout=2) as fetched:
        answer = json.dumps(fetched.read().decode())
    api.request("POST", "/2018-06-01/runtime/invocation/%s/response" % number, answer)
    api.getresponse().read()
