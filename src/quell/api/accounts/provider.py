"""The provider of logins, asked over HTTPS: its discovery document, its keys, and what it says of who logged in.

OpenID Connect Core 1.0 and Discovery 1.0; RFC 6749, 7636 (PKCE), 9207 (iss). joserfc checks signatures and claims.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode

import httpx
import msgspec
import structlog
from joserfc import jwt
from joserfc.errors import BadSignatureError, ClaimError, InvalidKeyIdError, JoseError, SecurityWarning
from joserfc.jwk import GuestProtocol, Key, KeySet
from joserfc.jws import JWSRegistry
from msgspec import Struct

from quell.clock import Clock
from quell.durations import parse_duration
from quell.errors import QuellError, SettingError
from quell.oidc_settings import OidcSettings, is_private_enough

#: What an ID token may be signed with, and the type of its key; never a secret that both sides have, never nothing.
ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
#: Seconds for which what the provider says of itself, and its keys, are not asked for again.
_KEPT = 3600.0
#: Seconds in which a provider that failed is not asked anew for what it says of itself.
_PAUSE = 2.0
#: Bytes of an answer.
_LONGEST = 1 << 20
_WELL_KNOWN = "/.well-known/openid-configuration"

Form = TypeVar("Form")

_log = structlog.get_logger(__name__)


class ProviderFailed(QuellError):
    """The provider does not answer, or not as one has to. The text says what in words for whoever wanted to log in."""


class NotProved(QuellError):
    """The provider, or its token, does not say that this is somebody. The text says why."""


class Discovery(Struct, frozen=True):
    """What is used of the provider's metadata."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False

    @property
    def addresses(self) -> tuple[str, ...]:
        optional = (self.userinfo_endpoint, self.end_session_endpoint)
        return (self.authorization_endpoint, self.token_endpoint, self.jwks_uri, *filter(None, optional))


class _Tokens(Struct, frozen=True):
    """An answer of the token endpoint, right or wrong (RFC 6749, sections 5.1 and 5.2)."""

    id_token: str = ""
    access_token: str = ""
    error: str = ""


class _Keys(Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Registry(JWSRegistry):
    """EdDSA has another name since RFC 9864, which providers do not use yet: nothing to warn of."""

    def get_alg(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            return super().get_alg(name)


class Provider:
    """The one that the settings name; on the event loop's thread only."""

    def __init__(self, settings: OidcSettings, secret: str, now: Clock) -> None:
        """SettingError for a file of authorities that cannot be read."""
        self._settings = settings
        self._secret = secret
        self._now = now
        self._timeout = parse_duration(settings.timeout)
        self._skew = int(parse_duration(settings.clock_skew))
        self._trusted = _trusted(settings.authority)
        self._asking = asyncio.Lock()
        self._discovered: tuple[Discovery, float] | None = None
        self._failed: tuple[str, float] = ("", 0.0)
        self._keys: tuple[KeySet, float] | None = None

    async def discovery(self) -> Discovery:
        """Asked for once an hour. ProviderFailed."""
        async with self._asking:
            if self._discovered is not None and self._discovered[1] > self._now():
                return self._discovered[0]
            failed, until = self._failed
            # Everybody may ask for the login page: a provider that hangs must not hold up one after the other.
            if failed and until > self._now():
                raise ProviderFailed(failed)
            try:
                found = await self._discover()
            except ProviderFailed as error:
                self._failed = (str(error), self._now() + _PAUSE)
                raise
            self._discovered = (found, self._now() + _KEPT)
            return found

    async def _discover(self) -> Discovery:
        issuer = self._settings.issuer
        found = await self._get(f"{issuer.rstrip('/')}{_WELL_KNOWN}", Discovery)
        if found.issuer != issuer:
            raise ProviderFailed(f"the provider at {issuer} calls itself {found.issuer[:200]}")
        if not all(map(is_private_enough, found.addresses)):
            raise ProviderFailed(f"the provider at {issuer} names addresses that are not https")
        return found

    async def login_address(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent to log in. ProviderFailed."""
        endpoint = (await self.discovery()).authorization_endpoint
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect,
            "scope": " ".join(dict.fromkeys(("openid", *self._settings.scopes))),
            "state": state,
            "nonce": nonce,
            "code_challenge": _unpadded(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def logout_address(self) -> str:
        """Where a browser is sent to end its session at the provider; "": the provider has no such address."""
        endpoint = (await self.discovery()).end_session_endpoint
        asked = urlencode({"client_id": self._settings.client_id})
        return endpoint and f"{endpoint}{'&' if '?' in endpoint else '?'}{asked}"

    async def claims(self, code: str, *, nonce: str, verifier: str, wanted: tuple[str, ...]) -> Mapping[str, Any]:
        """What the provider says of who logged in. ProviderFailed, NotProved.

        wanted: claims that are asked for once more (userinfo) if the ID token lacks one of them.
        """
        tokens = await self._tokens(code, verifier)
        claims = await self._verified(tokens.id_token, nonce)
        endpoint = (await self.discovery()).userinfo_endpoint
        if endpoint and tokens.access_token and not all(name in claims for name in wanted):
            headers = {"authorization": f"Bearer {tokens.access_token}"}
            more = await self._get(endpoint, dict[str, Any], headers=headers)
            if more.get("sub") != claims["sub"]:
                raise NotProved("the provider told of somebody else than its ID token")
            # What is signed goes first.
            claims = {**more, **claims}
        return claims

    async def _tokens(self, code: str, verifier: str) -> _Tokens:
        discovery, settings = await self.discovery(), self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.redirect,
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json"}
        methods = discovery.token_endpoint_auth_methods_supported
        if not self._secret:
            form["client_id"] = settings.client_id
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(self._secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": settings.client_id, "client_secret": self._secret}
        status, body = await self._ask("POST", discovery.token_endpoint, data=form, headers=headers)
        answer = self._read(body, _Tokens, status, right=(200, 400, 401))
        if answer.error == "invalid_grant":
            raise NotProved("the provider does not take the code: it was used before or has expired")
        if status != 200 or answer.error:
            _log.error("the provider refuses Quell's request for a token", status=status, error=answer.error[:100])
            raise ProviderFailed(
                f"the provider refuses Quell's request ({_word(answer.error) or status}); client_id, client_secret and "
                "public_url have to be as registered there"
            )
        if not answer.id_token:
            raise ProviderFailed("the provider sent no ID token: it speaks OAuth, not OpenID Connect")
        return answer

    async def _verified(self, token: str, nonce: str) -> dict[str, Any]:
        fresh = False
        if self._keys is None or self._keys[1] <= self._now():
            await self._fetch_keys()
            fresh = True
        try:
            try:
                claims = self._decoded(token)
            except (InvalidKeyIdError, BadSignatureError):
                if fresh:
                    raise
                # The provider may have changed its keys within the hour.
                await self._fetch_keys()
                claims = self._decoded(token)
            self._check(claims, nonce)
        except (JoseError, ValueError, TypeError) as error:
            _log.warning("an ID token is not taken", reason=str(error)[:200])
            raise NotProved(f"{_NOT_TAKEN}: {_why(error)}") from error
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        registry = _Registry(algorithms=ALGORITHMS, strict_check_header=False)
        return jwt.decode(token, self._key, registry=registry).claims

    def _key(self, signed: GuestProtocol) -> Key:
        """By its id; without one there must be no choice. InvalidKeyIdError."""
        header = signed.headers()
        kid, algorithm = header.get("kid"), header.get("alg", "")
        fitting = [
            key
            for key in (self._keys[0] if self._keys is not None else ())
            if key.key_type == ALGORITHMS.get(algorithm)
            and key.get("use", "sig") == "sig"
            and key.get("alg", algorithm) == algorithm
            and (kid is None or key.kid == kid)
        ]
        if len(fitting) != 1:
            raise InvalidKeyIdError("no key of that id" if kid is not None else "its key has no id")
        return fitting[0]

    def _check(self, claims: dict[str, Any], nonce: str) -> None:
        """JoseError and NotProved for what is not said to us, now, of this login. OpenID Connect Core, section 3.1.3.7."""
        client = self._settings.client_id
        jwt.JWTClaimsRegistry(
            now=int(self._now()),
            leeway=self._skew,
            iss={"essential": True, "value": self._settings.issuer},
            sub={"essential": True},
            aud={"essential": True, "value": client},
            exp={"essential": True},
            iat={"essential": True},
        ).validate(claims)
        audience = claims["aud"]
        is_shared = "azp" in claims or (isinstance(audience, list) and len(audience) > 1)
        if is_shared and claims.get("azp") != client:
            raise NotProved(f"{_NOT_TAKEN}: it was made for another program (azp)")
        if claims.get("nonce") != nonce:
            raise NotProved(f"{_NOT_TAKEN}: it is of another login (nonce)")

    async def _fetch_keys(self) -> None:
        keys = await self._get((await self.discovery()).jwks_uri, _Keys)
        # A secret that both sides have is no proof to us, and one key that is not understood spoils no other.
        known = []
        for key in keys.keys:
            if key.get("kty") in ("RSA", "EC", "OKP"):
                try:
                    known += KeySet.import_key_set({"keys": [key]}).keys
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    _log.warning("a key of the provider's is not understood", error=str(error)[:200])
        self._keys = (KeySet(known), self._now() + _KEPT)

    async def _get(self, url: str, form: type[Form], headers: Mapping[str, str] | None = None) -> Form:
        status, body = await self._ask("GET", url, headers={"accept": "application/json", **(headers or {})})
        return self._read(body, form, status)

    async def _ask(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        """Status and body. ProviderFailed. No redirect is followed: the addresses are the provider's own words."""
        issuer = self._settings.issuer
        body = b""
        try:
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(verify=self._trusted, timeout=self._timeout) as client,
                client.stream(method, url, **options) as answer,
            ):
                async for part in answer.aiter_bytes(1 << 16):
                    body += part
                    if len(body) > _LONGEST:
                        raise ProviderFailed(f"the provider at {issuer} sends more than {_LONGEST} bytes")
        except TimeoutError as error:
            raise ProviderFailed(f"the provider at {issuer} did not answer within {self._settings.timeout}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            if isinstance(error, httpx.TimeoutException):
                raise ProviderFailed(
                    f"the provider at {issuer} did not answer within {self._settings.timeout}"
                ) from error
            _log.error("the provider cannot be reached", url=url, error=f"{type(error).__name__}: {error}"[:300])
            raise ProviderFailed(f"the provider at {issuer} cannot be reached") from error
        return answer.status_code, body

    def _read(self, body: bytes, form: type[Form], status: int, *, right: tuple[int, ...] = (200,)) -> Form:
        issuer = self._settings.issuer
        if status not in right:
            raise ProviderFailed(f"the provider at {issuer} answered {status}")
        try:
            return msgspec.json.decode(body, type=form)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            _log.error("the provider's answer is not understood", error=str(error)[:200])
            raise ProviderFailed(f"the answer of the provider at {issuer} is not understood") from error


def _trusted(authority: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"oidc.authority: {authority} has no certificates that can be read: {error}") from error


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _word(text: str) -> str:
    """An error code of the protocol's; "": it is something else, which is not repeated."""
    return text if text.replace("_", "").isalpha() and text.isascii() and len(text) <= 64 else ""


_NOT_TAKEN = "the provider's ID token is not taken"
_WHY = {
    "bad_signature": "its signature is wrong",
    "invalid_key_id": "it is signed with a key that the provider does not publish",
    "expired_token": "it has expired",
    "unsupported_algorithm": f"it is not signed with one of {', '.join(ALGORITHMS)}",
}


def _why(error: Exception) -> str:
    if isinstance(error, ClaimError) and error.error not in _WHY:
        return f"its claim {error.claim} is missing or wrong"
    return _WHY.get(error.error, "it is malformed") if isinstance(error, JoseError) else "it is malformed"
