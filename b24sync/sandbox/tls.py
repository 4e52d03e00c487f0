"""A self-signed certificate for a local portal, fresh at every start."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID_DAYS = 30


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Write a certificate for a host, 127.0.0.1 and localhost; it is its own authority.

    Shape: paths of certificate and private key, both PEM.
    Writes: cert.pem and key.pem in the folder.
    Raises: OSError of the folder.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, private = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(_signed(key, host).public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


def server_context(certificate: Path, private: Path) -> ssl.SSLContext:
    """The TLS settings of a server with this certificate. Raises: OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return context


def _signed(key: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "b24sync sandbox")])
    now = datetime.now(UTC)  # noqa: TID251 - a certificate starts at the moment it is made
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
    )
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (_usage(), True),
        (x509.SubjectAlternativeName(_names(host)), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (authority, False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256())


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    return names if name in names else [*names, name]
