//! Originals of a web site: by a base that paths are appended to, or by whole URLs that an allow-list admits.
//!
//! Nothing of an answer is believed but what can be checked: its length is counted, its first bytes are looked at, and it is
//! fetched to a file of ours before anybody decodes it. `Cache-Control` and `Expires` are left aside: how old a version may be
//! is for our operator to say (`fresh_seconds`), not for whoever runs the site.

mod body;
mod scope;

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
        IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
    },
};
use url::Url;

use self::{
    body::{Bounds, Received, receive},
    scope::Scope,
};
use super::{Answer, Backend, Originals, Pending, SourceError, Stat, Validators};
use crate::{
    config::HttpSourceConfig,
    model::{EntityTag, MediaPath, Network},
    remote::{AskError, ConnectError, Guard, GuardedClient, HostBusy, Hosts, RemoteError, Resolve, Turn},
};

/// Redirects that are followed (FAULTS T15).
const MAX_REDIRECTS: usize = 3;
/// Attempts at what may be over a moment later; one, where a version is known that can be served meanwhile.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt, more or less by half; twice that before the third.
const PAUSE: Duration = Duration::from_millis(150);
/// So many failures of a host in a row, and it is left alone for so long.
const MOST_FAILURES: u32 = 10;
const REST: Duration = Duration::from_secs(5);

/// A web site.
pub struct HttpBackend {
    scope: Scope,
    client: GuardedClient,
    hosts: Hosts,
    originals: Arc<Originals>,
    connect: Duration,
    first_byte: Duration,
    total: Duration,
    bounds: Bounds,
}

/// What went wrong, and whether it may go better at once.
struct Trouble {
    error: SourceError,
    is_passing: bool,
}

impl Trouble {
    fn lasting(error: SourceError) -> Self {
        Self { error, is_passing: false }
    }

    fn passing(error: SourceError) -> Self {
        Self { error, is_passing: true }
    }

    fn failed(url: &Url, says: impl std::fmt::Display) -> Self {
        Self::lasting(SourceError::Failed(about(url, says)))
    }

    /// Ends the server's turn. What is wrong with the URL, with the file or with whom we trust says nothing about the server.
    fn tell(&self, turn: Turn) {
        if self.is_passing {
            turn.failed();
        } else {
            turn.succeeded();
        }
    }
}

/// What is said about a URL: its host alone. The rest may hold what lets its reader fetch it.
fn about(url: &Url, says: impl std::fmt::Display) -> String {
    format!("{}: {says}", url.host_str().unwrap_or_default())
}

/// An answer that says something about the file.
enum Found {
    Unchanged,
    Version(Stat, Validators, File),
}

impl HttpBackend {
    /// A source by this section. Nothing is asked yet.
    ///
    /// # Errors
    /// [`RemoteError::Url`] for what a checked config does not have; [`RemoteError::Certificates`] for https on a system that
    /// trusts nobody.
    pub fn new(
        config: &HttpSourceConfig,
        max_bytes: u64,
        originals: Arc<Originals>,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, RemoteError> {
        let scope = Scope::new(config).ok_or(RemoteError::Url)?;
        let allowed: Result<Vec<Network>, _> = config.allow_addresses.iter().map(|text| text.parse()).collect();
        let guard = Guard::new(allowed.map_err(|_| RemoteError::Url)?);
        let connect = Duration::from_secs_f64(config.connect_seconds);
        let first_byte = Duration::from_secs_f64(config.first_byte_seconds);
        Ok(Self {
            client: GuardedClient::new(guard, resolver, connect, scope.wants_tls())?,
            hosts: Hosts::new(config.max_connections, first_byte, MOST_FAILURES, REST),
            scope,
            originals,
            connect,
            first_byte,
            total: Duration::from_secs_f64(config.total_seconds),
            bounds: Bounds { max_bytes, min_rate: config.min_rate.0 },
        })
    }

    /// Gets a file, with so many attempts, within the time for all of it.
    async fn get(
        &self,
        path: &MediaPath,
        known: Option<&Validators>,
        mut copy: Option<File>,
        attempts: u32,
    ) -> Result<Found, SourceError> {
        let url = self.scope.locate(path)?;
        let end = Instant::now() + self.total;
        let mut attempt = 1;
        loop {
            let tried = self.try_get(url.clone(), known, copy.take());
            let trouble = match tokio::time::timeout_at(end.into(), tried).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(trouble)) => trouble,
                Err(_) => {
                    let says = format!("not all of it within {} s", self.total.as_secs_f64());
                    return Err(SourceError::TimedOut(about(&url, says)));
                }
            };
            let pause = jittered(PAUSE * attempt);
            if !trouble.is_passing || attempt >= attempts || Instant::now() + pause >= end {
                return Err(trouble.error);
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// One attempt: the URL, and those that it leads to.
    async fn try_get(&self, first: Url, known: Option<&Validators>, copy: Option<File>) -> Result<Found, Trouble> {
        let headers = asking(known);
        let mut url = first;
        for _ in 0..=MAX_REDIRECTS {
            let (response, turn) = self.ask(&url, &headers).await?;
            match response.status() {
                StatusCode::OK => return self.take(&url, response, turn, copy).await,
                StatusCode::NOT_MODIFIED if known.is_some_and(has_some) => {
                    turn.succeeded();
                    return Ok(Found::Unchanged);
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    turn.succeeded();
                    url = self.redirected(&url, response.headers())?;
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    turn.succeeded();
                    return Err(Trouble::lasting(SourceError::Gone("the site has none")));
                }
                status if status.is_server_error() => {
                    turn.failed();
                    let says = about(&url, format!("it answered {}", status.as_u16()));
                    return Err(Trouble::passing(SourceError::Failed(says)));
                }
                status => {
                    turn.succeeded();
                    return Err(Trouble::failed(&url, format!("it answered {}", status.as_u16())));
                }
            }
        }
        Err(Trouble::failed(&url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The head of one answer.
    async fn ask(&self, url: &Url, headers: &HeaderMap) -> Result<(Response<Incoming>, Turn), Trouble> {
        let target = url.as_str().parse().map_err(|_| Trouble::failed(url, "its URL cannot be asked for"))?;
        let turn = self
            .hosts
            .turn(&authority(url))
            .await
            .map_err(|busy: HostBusy| Trouble::lasting(SourceError::Unavailable(about(url, busy))))?;
        match self.client.get(target, headers.clone(), self.first_byte).await {
            Ok(response) => Ok((response, turn)),
            Err(error) => {
                let trouble = no_answer(url, &error);
                trouble.tell(turn);
                Err(trouble)
            }
        }
    }

    /// Where a redirect leads, if we follow it there: by the rules of the first URL, and not out of TLS.
    fn redirected(&self, from: &Url, headers: &HeaderMap) -> Result<Url, Trouble> {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Trouble::failed(from, "a redirect to nowhere"))?;
        let mut to = from.join(location).map_err(|_| Trouble::failed(from, "a redirect to what is no URL"))?;
        to.set_fragment(None);
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(Trouble::failed(from, "a redirect out of TLS"));
        }
        if !self.scope.admits(&to) {
            let to = to.host_str().unwrap_or(to.scheme());
            return Err(Trouble::failed(from, format!("a redirect to where nothing may be fetched ({to})")));
        }
        Ok(to)
    }

    /// The file that an answer of 200 brings.
    async fn take(
        &self,
        url: &Url,
        response: Response<Incoming>,
        turn: Turn,
        copy: Option<File>,
    ) -> Result<Found, Trouble> {
        let (head, body) = response.into_parts();
        let taken = async {
            self.check_head(url, &head.headers)?;
            let copy = match copy {
                Some(copy) => copy,
                None => self.originals.empty().map_err(Trouble::lasting)?,
            };
            let validators = validators(&head.headers);
            let received = receive(body, copy, self.bounds, !has_some(&validators)).await;
            let received = received.map_err(|error| error.about(url, &self.originals))?;
            Ok::<_, Trouble>((version(&validators, &received), validators, received.file))
        };
        match taken.await {
            Ok((stat, validators, file)) => {
                turn.succeeded();
                Ok(Found::Version(stat, validators, file))
            }
            Err(trouble) => {
                trouble.tell(turn);
                Err(trouble)
            }
        }
    }

    /// Whether to begin with an answer's body at all.
    fn check_head(&self, url: &Url, headers: &HeaderMap) -> Result<(), Trouble> {
        let text = |name: HeaderName| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase())
        };
        if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
            // Asked for none. An inflated body may be a thousand times what came (CWE-409).
            return Err(Trouble::failed(url, format!("it is encoded, unasked: {encoding:?}")));
        }
        if let Some(kind) = text(CONTENT_TYPE) {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            // The last is what S3 says of what was uploaded without a word.
            if !kind.starts_with("image/") && !matches!(kind, "application/octet-stream" | "binary/octet-stream") {
                return Err(Trouble::lasting(SourceError::NotAnImage(about(url, format!("its type is {kind:?}")))));
            }
        }
        let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.bounds.max_bytes) {
            return Err(Trouble::lasting(SourceError::TooLong(self.bounds.max_bytes)));
        }
        Ok(())
    }
}

/// What is said when asking: that we take a file as it is, and which version we have.
fn asking(known: Option<&Validators>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let Validators { etag, last_modified } = known.cloned().unwrap_or_default();
    for (name, value) in [(IF_NONE_MATCH, etag), (IF_MODIFIED_SINCE, last_modified)] {
        // They came out of a header, so they go into one.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn validators(headers: &HeaderMap) -> Validators {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Validators { etag: text(ETAG), last_modified: text(LAST_MODIFIED) }
}

fn has_some(validators: &Validators) -> bool {
    validators.etag.is_some() || validators.last_modified.is_some()
}

/// Which version an answer is of: what the server calls it, a strong name or a weak one, or the digest of what came.
fn version(validators: &Validators, received: &Received) -> Stat {
    let Validators { etag, last_modified } = validators;
    let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let etag = match &received.digest {
        Some(digest) => EntityTag::of(&[b"digest", digest]),
        None => EntityTag::of(&[&bytes(etag), &bytes(last_modified)]),
    };
    Stat { bytes: received.bytes, modified_ns: 0, etag: Some(etag) }
}

fn no_answer(url: &Url, error: &AskError) -> Trouble {
    let says = about(url, error);
    match error {
        AskError::Connect(ConnectError::Forbidden(_)) => {
            Trouble::failed(url, format!("{error} (http.allow_addresses can allow it)"))
        }
        AskError::Connect(ConnectError::Host) | AskError::Tls(_) => Trouble::failed(url, error),
        AskError::Connect(ConnectError::TimedOut(_)) | AskError::TimedOut(_) => {
            Trouble::passing(SourceError::TimedOut(says))
        }
        AskError::Connect(ConnectError::Lookup(_) | ConnectError::Refused(_)) | AskError::Broken(_) => {
            Trouble::passing(SourceError::Failed(says))
        }
    }
}

/// A host with its port: what has its own turns.
fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// Half to one and a half of a time: those who failed together shall not come back together.
fn jittered(pause: Duration) -> Duration {
    // Without randomness there is no jitter, and nothing else is lost.
    let share = getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + share)
}

impl Backend for HttpBackend {
    fn ask<'a>(&'a self, path: &'a MediaPath, known: Option<&'a Validators>) -> Pending<'a, Answer> {
        Box::pin(async move {
            let attempts = if known.is_some() { 1 } else { ATTEMPTS };
            Ok(match self.get(path, known, None, attempts).await? {
                Found::Unchanged => Answer::Unchanged,
                Found::Version(stat, validators, copy) => Answer::Version { stat, validators, copy: Some(copy) },
            })
        })
    }

    fn fetch<'a>(&'a self, path: &'a MediaPath, copy: File) -> Pending<'a, (Stat, File)> {
        Box::pin(async move {
            match self.get(path, None, Some(copy), ATTEMPTS).await? {
                Found::Version(stat, _, copy) => Ok((stat, copy)),
                Found::Unchanged => Err(SourceError::Failed("it says that nothing changed, unasked".into())),
            }
        })
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async move {
            let Some(base) = self.scope.base() else { return Ok(self.scope.to_string()) };
            let target =
                base.as_str().parse().map_err(|_| SourceError::Failed("its URL cannot be asked for".into()))?;
            match self.client.knock(target).await {
                Ok(()) => Ok(format!("{base} can be connected to, within {} s", self.connect.as_secs_f64())),
                Err(error) => Err(no_answer(base, &error).error),
            }
        })
    }
}
