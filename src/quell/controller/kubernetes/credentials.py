"""How the cluster's API is reached: the pod's service account or a kubeconfig, both read by kr8s.

Of kr8s only the reading of credentials is used: kubeconfigs, their exec plugins, service accounts. Its calls share one
session that a refusal of one kind (403) closes under all others, its objects are parsed whole (87 ms of the event loop
for 500 pods, 7 with msgspec and only the fields needed), and a Kubernetes newer than it knows makes it warn.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from msgspec import Struct

import quell
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.secrets import Secret

if TYPE_CHECKING:
    from kr8s._auth import KubeAuth

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: A kubeconfig that leads kr8s to the service account, whatever else lies in the home folder. It takes a dict as well.
_IN_CLUSTER: Any = {
    "contexts": [{"name": "in-cluster", "context": {"cluster": "", "user": ""}}],
    "current-context": "in-cluster",
}

#: A connection whose other end went away without a word is noticed after 20 + 3 * 10 seconds.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_CONNECT_SECONDS = 10.0
#: An exec plugin may ask a cloud for a token.
_READ_SECONDS = 30.0


#: Where a cluster is asked for and nothing says which.
NOWHERE = (
    "kubernetes.enabled is on, but there is no service account, no $KUBECONFIG and no ~/.kube/config: "
    "set kubernetes.kubeconfig"
)


class CredentialsError(Exception):
    """There are none, or they cannot be used; the text says why and what to do."""


class _Transport(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            # Its backend sets the options without a look whether the other side has closed the socket already.
            raise httpx.ConnectError("the connection was closed at once", request=request) from error


class Place(Struct, frozen=True, kw_only=True):
    """Where the credentials lie. kubeconfig: files with : between; "" is the service account."""

    kubeconfig: str = ""


class Access(Struct, frozen=True, kw_only=True):
    """What one reading of the credentials gave."""

    server: str
    cluster: str | None
    token: Secret | None
    context: ssl.SSLContext
    proxy: str | None
    #: The name in the server's certificate, where it is not the address's.
    server_name: str | None

    def client(self) -> httpx.AsyncClient:
        """For one kind: connections of its own, so that no other suffers when they are closed.

        Answers come unpacked: on a cluster's network the packing costs both sides more than the bytes. Environment
        variables (HTTPS_PROXY) have no say; a kubeconfig's proxy-url has.
        """
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"quell/{quell.__version__}",
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.reveal()}"
        transport = _Transport(verify=self.context, proxy=self.proxy, socket_options=_KEEPALIVE)
        return httpx.AsyncClient(
            base_url=self.server,
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(60.0, connect=_CONNECT_SECONDS),
            trust_env=False,
        )

    def extensions(self) -> dict[str, str]:
        """What each request carries for the transport."""
        return {"sni_hostname": self.server_name} if self.server_name else {}


def find(
    settings: KubernetesSettings, environment: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> Place | None:
    """Where to read credentials by these settings; None: there is no cluster here."""
    if settings.enabled == "off":
        return None
    if settings.kubeconfig:
        return Place(kubeconfig=settings.kubeconfig)
    if "KUBERNETES_SERVICE_HOST" in environment and (service_account / "token").exists():
        return Place()
    if settings.enabled == "on":
        # Not by default: a developer's kubeconfig leads to clusters that a Quell on that desk has nothing to do with.
        usual = environment.get("KUBECONFIG") or "~/.kube/config"
        if any(Path(path).expanduser().exists() for path in usual.split(os.pathsep) if path):
            return Place(kubeconfig=usual)
    return None


def configured(
    settings: KubernetesSettings, environment: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> Credentials | None:
    """The credentials of the API that these settings mean, also where they cannot be found; None: none is meant."""
    place = find(settings, environment, service_account)
    if place is None and settings.enabled != "on":
        return None
    return Credentials(place, settings, service_account)


class Credentials:
    """Read once, and again when the API no longer takes them: tokens of service accounts and plugins run out."""

    def __init__(
        self, place: Place | None, settings: KubernetesSettings, service_account: Path = SERVICE_ACCOUNT
    ) -> None:
        """Place None: a cluster is asked for, and nothing says where it is."""
        self._place = place
        self._settings = settings
        self._service_account = service_account
        self._context = settings.context
        self._access: Access | None = None
        self._reading = asyncio.Lock()
        #: The API's address and the cluster's name as they were last read; before that "" and what the settings say.
        self.server = ""
        self.cluster = settings.cluster or None

    @property
    def name(self) -> str:
        """What the cluster is called where a name is needed that never changes by reading."""
        return self._settings.cluster or self._settings.context or "default"

    def namespace(self) -> str | None:
        """That of the pod that this process runs in; None: it runs in none."""
        if self._place is None or self._place.kubeconfig:
            return None
        try:
            return (self._service_account / "namespace").read_text().strip() or None
        except OSError:
            return None

    async def current(self) -> Access:
        """CredentialsError if they cannot be read."""
        async with self._reading:
            if self._access is None:
                # Importing kr8s takes a third of a second, and a long kubeconfig is parsed in one go.
                self._access = await asyncio.to_thread(self._read)
                self.server, self.cluster = self._access.server, self._access.cluster
            return self._access

    def refused(self, access: Access) -> None:
        """The API did not take them (401): they are read again before the next use."""
        if self._access is access:
            self._access = None

    def _read(self) -> Access:
        """With a loop of its own: a reading that is cancelled half way would leave files open."""
        if self._place is None:
            raise CredentialsError(NOWHERE)
        named = self._place.kubeconfig
        if named and not any(Path(path).expanduser().exists() for path in named.split(os.pathsep) if path):
            raise CredentialsError(f"kubeconfig {named}: there is no such file")
        try:
            return asyncio.run(self._by_kr8s(named))
        except Exception as error:  # noqa: BLE001 - kr8s lets through whatever its reading meets, KeyError among it
            where = f"kubeconfig {named}" if named else f"service account {self._service_account}"
            # Further lines of an error of the YAML reader quote the file, which holds secrets: hence no cause either.
            first = f"{type(error).__name__}: {error}".partition("\n")[0]
            what = f"it has no {error}" if isinstance(error, KeyError) else first
            raise CredentialsError(f"{where} cannot be used: {what}") from None

    async def _by_kr8s(self, named: str) -> Access:
        from kr8s._auth import KubeAuth  # heavy, and needed only where there is a cluster

        auth = KubeAuth(
            kubeconfig=named or _IN_CLUSTER, serviceaccount=str(self._service_account), context=self._context or None
        )
        try:
            async with asyncio.timeout(_READ_SECONDS):
                await auth.reauthenticate()
            context = await _tls(auth)
        finally:
            _sweep(auth)
        if named and not self._context:
            # Whoever switches the file's current context must not switch the cluster under the inventory.
            self._context = auth.active_context
        cluster = auth.kubeconfig.get_context(auth.active_context)["cluster"] if named else None
        return Access(
            server=auth.server,
            cluster=self._settings.cluster or cluster or None,
            token=Secret(auth.token.strip()) if auth.token else None,
            context=context,
            proxy=auth.proxy,
            server_name=auth.tls_server_name,
        )


async def _tls(auth: KubeAuth) -> ssl.SSLContext:
    context = await auth.ssl_context()  # type: ignore[no-untyped-call]
    if not auth.server.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # such as of `kubectl proxy`; nothing asks for it
    if not isinstance(context, ssl.SSLContext):
        # Neither an authority nor a certificate is named: the system's authorities count.
        return ssl.create_default_context()
    if context.verify_mode is not ssl.CERT_NONE and not auth.server_ca_file:
        context.load_default_certs()
    return context


def _sweep(auth: KubeAuth) -> None:
    """Delete what kr8s leaves in the folder for temporary files: keys and certificates that stood in the kubeconfig
    or came from a plugin. Files that the kubeconfig names are the user's and stay.
    """
    user, cluster = auth._user, auth._cluster  # noqa: SLF001 - only there it says where a file came from
    for given, field, file in (
        (user, "client-key", auth.client_key_file),
        (user, "client-certificate", auth.client_cert_file),
        (cluster, "certificate-authority", auth.server_ca_file),
    ):
        if file and f"{field}-data" in given and str(file) != given.get(field):
            path = Path(file)
            if path.parent == Path(tempfile.gettempdir()) and path.name.startswith(tempfile.gettempprefix()):
                path.unlink(missing_ok=True)
