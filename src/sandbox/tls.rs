//! The practice certificate: a CA made at start, and a leaf of it for this machine.
//!
//! The CA's key is dropped once the leaf is signed: nobody can make a second certificate that a
//! relay with this `ca_file` would believe.

use std::{io, net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Longer than any rehearsal, short enough for verifiers that refuse more than 398 days.
const VALIDITY: SignedDuration = SignedDuration::from_hours(397 * 24);

/// Clocks of the machines that rehearse may differ by this.
const SKEW: SignedDuration = SignedDuration::from_hours(24);

/// What the SMTP listener shows, and what a relay needs in order to believe it.
pub(super) struct Identity {
    /// Shows the leaf.
    pub(super) acceptor: TlsAcceptor,
    /// The CA's certificate, PEM.
    pub(super) ca_pem: String,
}

/// Makes CA and leaf for `localhost`, `127.0.0.1`, `::1` and `address`.
pub(super) fn identity(address: IpAddr, now: Timestamp) -> io::Result<Identity> {
    make(address, now).map_err(io::Error::other)
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("practice certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("practice TLS configuration")]
    Tls(#[from] rustls::Error),
}

fn make(address: IpAddr, now: Timestamp) -> Result<Identity, Error> {
    let mut ca_params = params(Vec::new(), "Gatepost sandbox CA", now)?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca = ca_params.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca_params, ca_key);

    let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
    if !address.is_loopback() && !address.is_unspecified() {
        names.push(address.to_string());
    }
    let mut leaf_params = params(names, "Gatepost sandbox", now)?;
    leaf_params.use_authority_key_identifier_extension = true;
    leaf_params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf_params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf_params.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    // The provider is named, so that nothing depends on what the process installed before.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    Ok(Identity {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_pem: ca.pem(),
    })
}

fn params(names: Vec<String>, name: &str, now: Timestamp) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let day = |shift: SignedDuration| {
        let shifted = now.saturating_add(shift).unwrap_or(now);
        let date = TimeZone::UTC.to_datetime(shifted).date();
        let number = |n: i8| u8::try_from(n).unwrap_or(1);
        date_time_ymd(date.year().into(), number(date.month()), number(date.day()))
    };
    params.not_before = day(-SKEW);
    params.not_after = day(VALIDITY);
    Ok(params)
}
