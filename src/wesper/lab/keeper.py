"""The process that keeps a lab's network namespaces: init of a PID namespace, so that with it all of the lab ends.

Run as a program by path (`python -I -S keeper.py CONTROL LISTENER OWNER`, three descriptors), hence the standard
library alone. It answers requests on the control socket, one JSON object a packet, descriptors beside it, until that
socket closes or its owner ends, whatever the way. The kernel then kills what still runs in the PID namespace, and
network namespaces vanish with their last process and descriptor. There is nothing else to clean up.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any

if __name__ == "__main__":  # by path: no package around
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from syscalls import (  # type: ignore[import-not-found]
        CLONE_NEWNET,
        CLONE_NEWPID,
        die_with_parent,
        setns,
        unshare,
    )
else:
    from .syscalls import CLONE_NEWNET, CLONE_NEWPID, die_with_parent, setns, unshare

_MAX_MESSAGE = 1 << 20


class Keeper:
    """Answers requests.   user: whether there is a user namespace to join."""

    def __init__(self, user: bool) -> None:
        self._user = user
        self._namespaces: dict[str, int] = {}
        self._description = ""
        self.ended = False
        """Whether the owner wants the end; a copy of its socket in a forked process may keep that open."""

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Return the answer and the descriptors that go with it; those not kept here are closed by the caller."""
        operation = getattr(self, f"on_{request['op']}")
        answer: tuple[dict[str, Any], list[int]] = operation(request)
        return answer

    def on_hello(self, _: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Give the PID namespace, and the user namespace if there is one."""
        names = ["pid", "user"] if self._user else ["pid"]
        return {"pid": os.getpid()}, [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]

    def on_namespace(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Give a network namespace, a new one if there is none of this name."""
        name = request["name"]
        if name not in self._namespaces:
            if not request.get("create"):
                return {"error": errno.ENOENT}, []
            unshare(CLONE_NEWNET)
            self._namespaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return {}, [os.dup(self._namespaces[name])]

    def on_socket(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Open a socket in a network namespace."""
        setns(self._namespaces[request["name"]])
        opened = socket.socket(request["family"], request["type"], request["protocol"])
        return {}, [opened.detach()]

    def on_sysctl(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Set sysctls in a network namespace, which /proc/sys/net shows to whoever is in it."""
        setns(self._namespaces[request["name"]])
        failed = {}
        for path, value in request["values"].items():
            try:
                with open(f"/proc/sys/{path}", "w") as file:
                    file.write(value)
            except OSError as error:
                failed[path] = error.errno
        return {"failed": failed}, []

    def on_describe(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Remember what the lab looks like."""
        self._description = request["text"]
        return {}, []

    def on_end(self, _: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """End the lab, if it is the owner who asks."""
        self.ended = True
        return {}, []

    def on_description(self, _: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Return what the lab looks like."""
        return {"text": self._description}, []


def serve(keeper: Keeper, control: socket.socket, listener: socket.socket, owner: int) -> None:
    """Answer until control closes or the process of the pidfd owner (-1: unknown) ends."""
    poll = select.poll()
    clients: dict[int, socket.socket] = {}
    for descriptor in (control.fileno(), listener.fileno(), owner):
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == owner:
                return
            if descriptor == listener.fileno():
                client, _ = listener.accept()
                if _is_ours(client):
                    clients[client.fileno()] = client
                    poll.register(client, select.POLLIN)
                else:
                    client.close()
            elif descriptor == control.fileno():
                if not _answer_one(keeper, control) or keeper.ended:
                    return
            elif not _answer_one(keeper, clients[descriptor]) or keeper.ended:
                keeper.ended = False  # which only the owner may ask for
                poll.unregister(descriptor)
                clients.pop(descriptor).close()


def _is_ours(client: socket.socket) -> bool:
    """Tell whether a client is of the lab's own user, who is 0 in here with a user namespace and without."""
    size = struct.calcsize("iII")
    return bool(struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1] == 0)


def _answer_one(keeper: Keeper, client: socket.socket) -> bool:
    """Answer one request; tell whether the client may have more."""
    try:
        data = client.recv(_MAX_MESSAGE)
        if not data:
            return False
        descriptors: list[int] = []
        try:
            answer, descriptors = keeper.answer(json.loads(data))
        except OSError as error:
            answer = {"error": error.errno}
        except (ValueError, LookupError, TypeError, AttributeError):  # no request of ours; the lab must not end by it
            answer = {"error": errno.EINVAL}
        _send(client, answer, descriptors)
    except OSError:
        return False
    return True


def _send(client: socket.socket, answer: dict[str, Any], descriptors: list[int]) -> None:
    socket.send_fds(client, [json.dumps(answer).encode()], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def main() -> None:
    """Become the keeper; say why not on the control socket."""
    control, listener = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    owner = int(sys.argv[3])
    try:
        user = unshare(CLONE_NEWPID | CLONE_NEWNET)
        child = os.fork()
    except OSError as error:
        control.send(json.dumps({"error": error.errno}).encode())
        return
    if child:
        control.close()
        listener.close()
        os.waitpid(child, 0)
        return
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the lab come here and leave no zombies
    keeper = Keeper(user)
    _send(control, *keeper.on_hello({}))  # unasked, as the error would come
    serve(keeper, control, listener, owner)


if __name__ == "__main__":
    main()
