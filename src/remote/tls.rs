//! How servers are believed.

use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{ClientConfig, RootCertStore};

use super::RemoteError;

/// TLS as a client, trusting whom the system trusts (`SSL_CERT_FILE` names others); nobody, where TLS is not `needed`.
///
/// # Errors
/// [`RemoteError::Certificates`] on a system that trusts nobody.
pub(super) fn client(needed: bool) -> Result<ClientConfig, RemoteError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RemoteError::Certificates(error.to_string()))?;
    let tls = if needed {
        tls.with_native_roots().map_err(|error| RemoteError::Certificates(error.to_string()))?
    } else {
        tls.with_root_certificates(RootCertStore::empty())
    };
    Ok(tls.with_no_client_auth())
}
