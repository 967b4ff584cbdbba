//! `check --url`: a canary through the public web server, and what is the matter where it does not come back as it must.
//!
//! What is compared is what was sent with what arrived at the gate ([`mirror`]), and what the gate handed over with what came
//! out. A cause is named only by something that this cause alone does: the same file asked for by another spelling, a name that
//! a regex location does not take, the location's own answer from outside. Where the web server runs on this machine, its user
//! and its config are looked at too, as evidence; without them the rest works as well.

mod ask;
pub mod canary;
mod finding;
mod handoff;
mod headers;
pub mod local;
pub mod mirror;
mod nginx;
mod reach;
mod real;
mod users;

use std::time::{Duration, SystemTime};

use hyper::HeaderMap;

pub use ask::Answer;
pub use finding::{Cause, Finding, Severity};

use self::{
    ask::Public,
    canary::{Kind, Nonce, Signer},
    nginx::Front,
};
use crate::{
    access::{Route, Verifier},
    config::{Config, OffloadMode},
    remote::RemoteError,
};

/// How the public URL is asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What signed paths are appended to.
    pub url: String,
    /// Whether any certificate is taken.
    pub insecure: bool,
    /// What goes along: a route may want a token, or a session.
    pub credentials: HeaderMap,
    /// The web server's user, where it cannot be seen.
    pub user: Option<String>,
    /// An image that is asked for too: `42`, or `source/path`.
    pub image: Option<String>,
}

/// Examines every route.
///
/// # Errors
/// A sentence, when nothing could be asked at all.
pub async fn examine(config: &Config, asked: &Asked) -> Result<Vec<Finding>, String> {
    let verifier = Verifier::new(config).map_err(|error| error.to_string())?;
    // As long as nginx waits for the gate, and a little.
    let timeout = Duration::from_secs_f64(config.render.deadline_seconds + 5.0);
    let public = Public::new(&asked.url, timeout, asked.insecure, asked.credentials.clone());
    let public = public.map_err(|error| format!("{}: {error}", asked.url))?;
    let front = Front::on_this_machine(public.port(), asked.user.as_deref());
    let mut findings = Vec::new();
    for route in verifier.table().routes() {
        let nonce = Nonce::fresh().map_err(|error| error.to_string())?;
        let mode = config.effective_routes().get(&*route.name).map_or(config.offload.mode, |route| route.offload);
        let spec = spec_for(config, route);
        let signer = Signer { verifier: &verifier, route, spec };
        let look = Look { config, public: &public, front: &front, route, mode, signer, nonce };
        look.route(&mut findings, asked.image.as_deref()).await;
    }
    Ok(findings)
}

/// A spec that the route takes: where only presets are served, one of them.
fn spec_for<'a>(config: &'a Config, route: &Route) -> &'a str {
    let has_presets_only = route.presets_only || route.native_keys.iter().any(|key| key.scope().presets_only);
    match has_presets_only {
        true => config.presets.keys().next().map_or("original", String::as_str),
        false => "original",
    }
}

/// One route, looked at.
struct Look<'a> {
    config: &'a Config,
    public: &'a Public,
    front: &'a Front,
    route: &'a Route,
    mode: OffloadMode,
    signer: Signer<'a>,
    nonce: Nonce,
}

impl Look<'_> {
    /// The order of examination: each step needs the one before, and what is named once is not named again by what follows from it.
    async fn route(&self, findings: &mut Vec<Finding>, image: Option<&str>) {
        if self.sign(Kind::Mirror, "").is_none() {
            let says = "no key of this route signs a canary now: nothing was asked";
            let fix = "signing.keys: a key that is alive and without sources (a Wagtail key does, too, but not with presets_only)";
            findings.push(self.warning(Cause::NoKey, says).fix(fix));
            return;
        }
        let before = findings.len();
        match self.reach(findings).await {
            Err(finding) => findings.push(*finding),
            Ok(()) => self.hand_over(findings).await,
        }
        // What was planted is taken away, whatever was found; the gate on this machine is asked where the web server does not let it.
        if let Some(over) = self.sign(Kind::Over, "") {
            let is_gone = self.public.get(&over).await.is_ok_and(|answer| answer.says("canary: gone"));
            if !is_gone {
                let _ = ask::gate(&self.config.server.listen, &over, &self.public.credentials).await;
            }
        }
        // It would only say once more what is named already.
        if let Some(image) = image
            && findings[before..].iter().all(|finding| finding.ok)
        {
            findings.push(self.real(image).await);
        }
        if findings[before..].iter().all(|finding| finding.severity == Severity::Ok) {
            let says =
                format!("{}{} serves as it should ({})", self.public.base(), self.route.prefix, self.mode.name());
            findings.push(Finding::good(self.part(), says));
        }
    }

    fn part(&self) -> String {
        format!("url {}", self.route.name)
    }

    fn sign(&self, kind: Kind, tail: &str) -> Option<String> {
        self.signer.sign(&self.nonce, kind, tail, SystemTime::now())
    }

    /// Asks for a canary.
    async fn get(&self, kind: Kind) -> Result<Answer, RemoteError> {
        match self.sign(kind, "") {
            Some(path) => self.public.get(&path).await,
            None => Err(RemoteError::Url),
        }
    }

    fn error(&self, cause: Cause, says: impl Into<String>) -> Finding {
        Finding::error(self.part(), cause, says)
    }

    fn warning(&self, cause: Cause, says: impl Into<String>) -> Finding {
        Finding::warning(self.part(), cause, says)
    }

    fn unasked(&self, error: &RemoteError) -> Finding {
        let error = error.to_string();
        let finding = self.error(Cause::Unreachable, format!("{} does not answer", self.public.base()));
        // As rustls words it.
        match error.contains("peer certificate") {
            true => finding.seen(error).fix(
                "the certificate is of nobody whom this machine trusts: SSL_CERT_FILE=FILE names whom it should, --insecure takes any",
            ),
            false => finding.seen(error),
        }
    }
}
