"""Answers with the process it runs in."""

import os


def handler(event, context):
    return os.getpid()
