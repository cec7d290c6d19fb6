"""A webhook receiver in a process of its own, so that it can be killed, hang, and have a CA that nobody else knows.

python receiver_process.py LOG [--port N] [--tls CHAIN] [--hang]     prints its port, then serves until it is ended

Each request is a line of JSON in LOG before it is answered: time, path, headers, body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import time


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", default="")
    parser.add_argument("--hang", action="store_true")
    told = parser.parse_args()
    log = os.open(told.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                request = {
                    "time": time.time(),
                    "path": first.split(" ")[1],
                    "headers": headers,
                    "body": body.decode(),
                }
                os.write(log, json.dumps(request).encode() + b"\n")
                if told.hang:
                    await asyncio.Event().wait()
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    context = None
    if told.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(told.tls)
    server = await asyncio.start_server(serve, "127.0.0.1", told.port, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
