//! `[page]`: the editors' page, on a listener of its own.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Config, ListenAddress, Secret};

/// `[page]`: where editors make links by hand. Unlike the operations listener it may be published, behind TLS.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageConfig {
    /// Where the page is; without an address there is none.
    pub listen: Option<ListenAddress>,
    /// What editors log in with; at least 12 characters.
    pub password: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub password_file: Option<PathBuf>,
    /// For how long a login holds.
    pub session_seconds: f64,
    /// Scheme, host and port as browsers see the page, where the web server in front passes another `Host` on.
    pub public_url: Option<String>,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self { listen: None, password: None, password_file: None, session_seconds: 43_200.0, public_url: None }
    }
}

impl Config {
    pub(super) fn check_page(&self, problem: &mut impl FnMut(&str, String)) {
        let page = &self.page;
        let Some(listen) = &page.listen else { return };
        for (key, other) in [("server.listen", &self.server.listen), ("server.ops_listen", &self.server.ops_listen)] {
            // Port 0 is another one each time.
            let is_any = matches!(other, ListenAddress::Tcp(address) if address.port() == 0);
            if listen == other && !is_any {
                problem("page.listen", format!("is the address of {key} too"));
            }
        }
        if page.session_seconds < 1.0 {
            problem("page.session_seconds", "must be at least 1".into());
        }
        if let Some(url) = &page.public_url {
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                problem("page.public_url", "is scheme, host and port, as in https://images.example.org".into());
            }
        }
    }
}
