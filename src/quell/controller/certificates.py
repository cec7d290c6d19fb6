"""The certificates that the API is served with: brought by the operator, or of an authority made at the first start.

The own authority lives in the state folder and signs nothing but this controller's certificate. Agents learn its
fingerprint with their join token, the command line reads its file. DESIGN, trust.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from quell.channel.keys import save_private
from quell.errors import SettingError

#: Days. The authority outlives the machines that trust it; what it signs is renewed by itself when a third is left.
_AUTHORITY_DAYS = 3650
_CERTIFICATE_DAYS = 90
_RENEW_DAYS = 30
#: Clocks of agents may be behind by so much.
_SKEW = timedelta(hours=1)


class Files(Struct, frozen=True, kw_only=True):
    """PEM files to serve with."""

    certificate: Path
    key: Path
    #: Whom those who dial are told to trust; None: nobody in particular, as for a certificate of a public authority.
    authority: Path | None = None


def own(folder: Path, names: tuple[str, ...], now: datetime) -> Files:
    """The own authority's, made or renewed where that is due. folder: made for its owner alone. OSError.

    names: host names and addresses that the certificate is for.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Files(certificate=folder / "server.crt", key=folder / "server.key", authority=folder / "ca.crt")
    authority_key = folder / "ca.key"
    if not (authority_key.exists() and folder.joinpath("ca.crt").exists()):
        _make_authority(authority_key, folder / "ca.crt", now)
        files.certificate.unlink(missing_ok=True)
    if not _is_good(files, names, now):
        _make_certificate(files, authority_key, folder / "ca.crt", names, now)
    return files


def brought(certificate: str, key: str, authority: str) -> Files:
    """The operator's own. SettingError: they are not there, or no pair."""
    files = Files(
        certificate=Path(certificate), key=Path(key or certificate), authority=Path(authority) if authority else None
    )
    context(files)
    if files.authority is not None:
        fingerprint(files.authority)
    return files


def context(files: Files) -> ssl.SSLContext:
    """TLS 1.2 and later. SettingError: the files are not there, or no pair."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    load(made, files)
    return made


def load(into: ssl.SSLContext, files: Files) -> None:
    """Serve with these from the next connection on. SettingError."""
    try:
        into.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"server.certificate {files.certificate} and key {files.key}: {error}") from error


def fingerprint(authority: Path) -> str:
    """SHA-256 of a certificate, hexadecimal. SettingError."""
    try:
        certificate = x509.load_pem_x509_certificate(authority.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"server.authority {authority}: expected a certificate in PEM: {error}") from error
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _is_good(files: Files, names: tuple[str, ...], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        files.key.exists()
        and certificate.not_valid_after_utc - now > timedelta(days=_RENEW_DAYS)
        and list(known) == _alternatives(names)
    )


def _make_authority(key_file: Path, file: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Quell controller authority")])
    certificate = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    save_private(key_file, _pem(key))
    save_private(file, certificate.public_bytes(serialization.Encoding.PEM))


def _make_certificate(
    files: Files, authority_key: Path, authority: Path, names: tuple[str, ...], now: datetime
) -> None:
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise SettingError(f"{authority_key}: expected the key that Quell made, an EC key")
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(name, issuer.subject, key.public_key(), now, _CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    # The key first: a crash between the two leaves a pair that is none, which is made anew.
    files.certificate.unlink(missing_ok=True)
    save_private(files.key, _pem(key))
    save_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: tuple[str, ...]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def utc_now() -> datetime:
    return datetime.now(UTC)
