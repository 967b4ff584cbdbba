//! Asking: through the public URL as a browser does, and the gate itself, past everything in front.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    HeaderMap, Method, Request, Response,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, SERVER},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use url::Url;

use super::canary::{ASKED_AGAIN, ASKED_AGAIN_UNMARKED};
use crate::{
    config::ListenAddress,
    remote::{Client, Fetch, RemoteError},
};

/// Longest answer that is read: canaries have 2 KB, a site's pages more.
const MAX_BYTES: usize = 4 << 20;
/// In every page that nginx writes itself.
const NGINX_PAGE: &[u8] = b"<center>nginx";
/// For an answer of the gate itself, which is near.
const GATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The public URL.
pub struct Public {
    client: Client,
    /// What signed paths are appended to.
    base: String,
    /// The same, taken apart.
    site: Url,
    timeout: Duration,
    /// What goes along with each request: the credentials that a route wants.
    pub credentials: HeaderMap,
}

impl Public {
    /// A URL, how long it may take to answer, and whether its certificate counts.
    ///
    /// # Errors
    /// [`RemoteError`] for what is no URL, or without certificates to trust.
    pub fn new(url: &str, timeout: Duration, insecure: bool, credentials: HeaderMap) -> Result<Self, RemoteError> {
        let base = url.trim_end_matches('/').to_owned();
        let site = Url::parse(&base).map_err(|_| RemoteError::Url)?;
        let fetch = Fetch::new(&base, timeout, MAX_BYTES)?;
        let client = if insecure { Client::unverified(&fetch)? } else { Client::new(&fetch)? };
        Ok(Self { client, base, site, timeout, credentials })
    }

    /// The URL as it was given.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The port that answers.
    pub fn port(&self) -> Option<u16> {
        self.site.port_or_known_default()
    }

    /// A signed path, asked for.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, RemoteError> {
        self.ask(Method::GET, path, &[]).await
    }

    /// As [`Self::get`]; where a redirect comes, what it leads to.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn followed(&self, path: &str) -> Result<Answer, RemoteError> {
        let answer = self.get(path).await?;
        match answer.header(LOCATION.as_str()) {
            Some(location) if matches!(answer.status(), 301 | 302 | 307) => self.elsewhere(location).await,
            _ => Ok(answer),
        }
    }

    /// As [`Self::get`], by another method and with more headers.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn ask(&self, method: Method, path: &str, more: &[(&str, &str)]) -> Result<Answer, RemoteError> {
        self.fetch(method, &format!("{}{path}", self.base), more).await
    }

    /// What is at a path of the whole site, or at another address that a redirect named (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn elsewhere(&self, location: &str) -> Result<Answer, RemoteError> {
        let url = self.site.join(location).map_err(|_| RemoteError::Url)?;
        self.fetch(Method::GET, url.as_str(), &[]).await
    }

    /// Whether an address is of the site that the credentials were given for: the same scheme, host and port (RFC 6454).
    fn is_at_home(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| url.origin() == self.site.origin())
    }

    async fn fetch(&self, method: Method, url: &str, more: &[(&str, &str)]) -> Result<Answer, RemoteError> {
        let mut headers = HeaderMap::new();
        if self.is_at_home(url) {
            headers.clone_from(&self.credentials);
        }
        for (name, value) in more {
            let (name, value) = (HeaderName::try_from(*name), HeaderValue::try_from(*value));
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
        let fetch = Fetch::new(url, self.timeout, MAX_BYTES)?;
        Ok(Answer(self.client.ask(method, &fetch, &headers).await?))
    }
}

/// Asks the gate itself.
///
/// # Errors
/// A sentence about why there is no answer.
pub async fn gate(address: &ListenAddress, target: &str, credentials: &HeaderMap) -> Result<Answer, String> {
    let ask = async {
        match address {
            ListenAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                exchange(TokioIo::new(stream), target, credentials).await
            }
            ListenAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                exchange(TokioIo::new(stream), target, credentials).await
            }
        }
    };
    tokio::time::timeout(GATE_TIMEOUT, ask).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn exchange(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    target: &str,
    credentials: &HeaderMap,
) -> Result<Answer, String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(stream).await.map_err(said)?;
    let driver = tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.parse().map_err(|_| "not a target".to_owned())?;
    request.headers_mut().clone_from(credentials);
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let (head, body) = sender.send_request(request).await.map_err(said)?.into_parts();
    let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
    driver.abort();
    Ok(Answer(Response::from_parts(head, body)))
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer(pub Response<Bytes>);

impl Answer {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        self.0.body()
    }

    /// Whether it is this sentence, as the gate says it.
    pub fn says(&self, sentence: &str) -> bool {
        let is_text = self.header(CONTENT_TYPE.as_str()).is_some_and(|media| media.starts_with("text/plain"));
        is_text && self.body().trim_ascii_end() == sentence.as_bytes()
    }

    /// Whether the web server came back to the gate, because the file was not there.
    pub fn came_back(&self) -> bool {
        self.says(ASKED_AGAIN) || self.says(ASKED_AGAIN_UNMARKED)
    }

    /// Whether it is the gate's, as far as can be seen.
    pub fn is_gates(&self) -> bool {
        let is_text = self.header(CONTENT_TYPE.as_str()).is_some_and(|media| media.starts_with("text/plain"));
        is_text && self.header("x-request-id").is_some()
    }

    /// Whether the gate has no such thing.
    pub fn is_gates_not_found(&self) -> bool {
        self.says("Not found")
    }

    /// Whether two answers come from the same place, as far as can be seen: dates, ids and lengths of echoed paths may differ.
    pub fn looks_like(&self, other: &Self) -> bool {
        let names = |answer: &Self| {
            let mut names: Vec<String> = answer.0.headers().keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        // A page that names nginx is nginx's own, and the same for every path of one server: with its version, or without.
        let is_page = |answer: &Self| answer.body().windows(NGINX_PAGE.len()).any(|window| window == NGINX_PAGE);
        let is_same_page = !(is_page(self) && is_page(other)) || self.body() == other.body();
        self.status() == other.status() && names(self) == names(other) && is_same_page
    }

    /// In a few words, for evidence.
    pub fn words(&self) -> String {
        let media = self.header(CONTENT_TYPE.as_str()).unwrap_or("no type");
        let server = self.header(SERVER.as_str()).map(|name| format!(", from {name}")).unwrap_or_default();
        let sentence = match media.starts_with("text/plain") && self.body().len() < 100 {
            true => format!(" {:?}", String::from_utf8_lossy(self.body()).trim_end()),
            false => String::new(),
        };
        format!("{} {media}{sentence}, {} bytes{server}", self.status(), self.body().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_their_own_origin_only() {
        let public = Public::new("http://images.example/a", Duration::from_secs(1), false, HeaderMap::new()).unwrap();
        for (url, is_at_home) in [
            ("http://images.example/a/b", true),
            ("http://IMAGES.example:80/", true),
            ("http://images.example.evil/", false),
            ("http://images.example@evil.example/", false),
            ("http://images.example:8080/", false),
            ("https://images.example/", false),
            ("http://evil.example/http://images.example/", false),
            ("not a URL", false),
        ] {
            assert_eq!(public.is_at_home(url), is_at_home, "{url}");
        }
        // What a redirect names.
        for (location, address) in [
            ("/files/x", "http://images.example/files/x"),
            ("//evil.example/x", "http://evil.example/x"),
            ("http://images.example.evil/x", "http://images.example.evil/x"),
        ] {
            assert_eq!(public.site.join(location).unwrap().as_str(), address);
        }
    }
}
