"""Runs command lines of the aws tool in one process and prints what each
would send. Standard input holds a JSON list of lists of arguments; standard
output gets a JSON list of {"method", "path", "body", "target"} or {"error"}.
Nothing is sent."""

import contextlib
import io
import json
import logging
import sys

from awscli import clidriver
from awscli.botocore.awsrequest import AWSResponse


class Raw(io.BytesIO):
    def stream(self, **_):
        yield self.getvalue()


def capture(driver, sent, driver_args):
    sent.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            driver.main(driver_args)
        except SystemExit:
            pass
        except Exception as e:  # of reading the empty answer, not of the line
            err.write(repr(e))
    return dict(sent) or {"error": err.getvalue().strip()}


def main():
    logging.disable(logging.CRITICAL)
    sent = {}

    def before_send(request, **_):
        body = request.body or b""
        if hasattr(body, "read"):
            body = body.read()
        if isinstance(body, str):
            body = body.encode()
        url = request.url.split("://", 1)[1]
        path = url[url.find("/"):] if "/" in url else "/"
        target = request.headers.get("X-Amz-Target", "")
        if isinstance(target, bytes):
            target = target.decode()
        sent.update(method=request.method, path=path, body=body.decode(), target=target)
        xml = "x-www-form-urlencoded" in str(request.headers.get("Content-Type", ""))
        return AWSResponse(request.url, 200, {}, Raw(b"<Response/>" if xml else b"{}"))

    driver, result = None, []
    for args in json.load(sys.stdin):
        if driver is None:
            driver = clidriver.create_clidriver()
            driver.session.register("before-send", before_send)
        result.append(capture(driver, sent, args))
        if args[1] == "modify-instance-attribute":
            driver = None  # the handlers of this command stay, and trip others
    json.dump(result, sys.stdout)


main()
