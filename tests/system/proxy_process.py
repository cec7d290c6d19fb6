"""An HTTP proxy in a process of its own: CONNECT, and requests that it passes on.

python proxy_process.py LOG [--user NAME:PASSWORD] [--to HOST:PORT]     prints its port, then serves until it is ended

Each request line, with what came as Proxy-Authorization, is a line of JSON in LOG. --to: where all of them really lead, for
names that only this proxy knows.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import sys
from urllib.parse import urlsplit


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--user", default="")
    parser.add_argument("--to", default="")
    told = parser.parse_args()
    log = os.open(told.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    wanted = "Basic " + base64.b64encode(told.user.encode()).decode() if told.user else ""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        shown = headers.pop("proxy-authorization", "")
        os.write(log, json.dumps({"request": first, "authorization": shown, "headers": headers}).encode() + b"\n")
        if shown != wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        method, target, version = first.split(" ")
        authority = target if method == "CONNECT" else urlsplit(target).netloc
        host, _, port = (told.to or authority).rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target)
            passed = "\r\n".join([f"{method} {parts.path} {version}", *(f"{k}: {v}" for k, v in headers.items())])
            back.write(passed.encode("latin-1") + b"\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
