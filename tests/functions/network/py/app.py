"""Fetches the URL in its query."""

import urllib.request


def handler(event, context):
    with urllib.request.urlopen(event["queryStringParameters"]["url"], timeout=2) as reply:
        return reply.read().decode()
