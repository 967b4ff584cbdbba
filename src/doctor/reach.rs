//! From the public URL to the gate: does a request arrive, and does it arrive as it was sent?

use std::time::{Duration, SystemTime};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, DATE, LOCATION};

use super::{
    Answer, Cause, Finding, Look,
    ask::gate,
    canary::{Kind, SOURCE},
    mirror::{Mirror, digest},
};
use crate::config::{AuthMode, OffloadMode};

/// The last segment of a path as no web server would write it: an escape in lower case, escapes of what needs none, one that
/// is encoded twice. Decoded and encoded again it is another text.
const ODD_NAME: &str = "caf\u{e9} ;%2F~(1).png";
/// The same on the wire.
const ODD_SPELLING: &str = "caf%c3%a9%20%3b%252F%7e(1).png";
/// How far clocks may be apart. A link's end is rounded up by far more.
const SKEW: Duration = Duration::from_secs(30);
/// An address for documentation (RFC 5737): nobody's.
const NOBODY: &str = "192.0.2.77";

impl Look<'_> {
    /// Follows a request to the gate.
    ///
    /// # Errors
    /// What keeps it from arriving; the rest cannot be looked at then.
    pub(super) async fn reach(&self, findings: &mut Vec<Finding>) -> Result<(), Box<Finding>> {
        let path = self.sign(Kind::Mirror, "").unwrap_or_default();
        let answer = self.public.get(&path).await.map_err(|error| self.unasked(&error))?;
        let Some(mirror) = mirror_in(&answer) else { return Err(self.astray(&path, &answer).await.into()) };
        self.named_like_an_image().await?;
        self.as_it_was_sent().await?;
        self.spoofed(findings).await?;
        if mirror.mode != self.mode.name() || mirror.terms != digest(self.config) {
            let says = "the gate that answers runs with another config than this one";
            let fix = "send it SIGHUP or restart it, or give check the config that it was started with";
            let seen =
                format!("its hand-off is {:?}, its store, prefixes or headers differ from this file's", mirror.mode);
            return Err(self.error(Cause::OtherConfig, says).seen(seen).fix(fix).into());
        }
        findings.extend(self.clock(&mirror));
        if !mirror.keeps_connection && self.mode != OffloadMode::AuthRequest {
            let says = "the web server opens a connection to sendimage for each request";
            let fix = "location ^~ PREFIX: proxy_http_version 1.1; proxy_set_header Connection \"\"; and keepalive in the upstream";
            findings.push(self.warning(Cause::NoKeepalive, says).seen("Connection: close").fix(self.in_route(fix)));
        }
        // The other modes have no such headers but on the mirror.
        let leaks: Vec<&str> = leaked(&answer).collect();
        if !leaks.is_empty() && matches!(self.mode, OffloadMode::Accel | OffloadMode::AuthRequest) {
            let says = "headers between sendimage and the web server are seen outside";
            let lines: Vec<String> = leaks.iter().map(|name| format!("proxy_hide_header {name};")).collect();
            let fix = self.in_route(&format!("location ^~ PREFIX: {}", lines.join(" ")));
            findings.push(self.warning(Cause::LeakedHeaders, says).seen(leaks.join(", ")).fix(fix));
        }
        self.refusal(findings).await
    }

    /// Why a request does not arrive.
    async fn astray(&self, path: &str, answer: &Answer) -> Finding {
        let base = self.public.base();
        let direct = gate(&self.config.server.listen, path, &self.public.credentials).await;
        let arrives = direct.as_ref().is_ok_and(|answer| mirror_in(answer).is_some());
        let said = match &direct {
            Ok(answer) => format!("sendimage itself, at {}: {}", self.config.server.listen, answer.words()),
            Err(error) => format!("sendimage itself, at {}: {error}", self.config.server.listen),
        };
        let finding = |cause, says: &str| {
            self.error(cause, says).seen(format!("through {base}: {}", answer.words())).seen(said.clone())
        };
        match answer.status() {
            301 | 302 | 307 | 308 => {
                let to = answer.header(LOCATION.as_str()).unwrap_or("nowhere").split('?').next().unwrap_or_default();
                let to: String = to.chars().take(80).collect();
                finding(Cause::Redirected, "the public URL leads elsewhere before sendimage is asked")
                    .seen(format!("Location: {to}"))
                    .fix("give --url, and server.public_url, as browsers see it in the end (https, the host's main name)")
            }
            503 if self.route.auth == AuthMode::Forward && answer.says("Temporarily unavailable") => {
                let asked = format!("sendimage asks {} about {SOURCE}/...", self.config.auth.forward.url);
                finding(Cause::SiteFails, "the site does not say who may see an image, so that nobody sees any").seen(asked).fix(
                    "auth.forward.url: its view answers 2xx, 401, 403, 404 or a redirect, for what it does not know too; \
                     sendimage's log has what it answered",
                )
            }
            502..=504 if !answer.says("Temporarily unavailable") => {
                let finding = finding(Cause::GateUnreachable, "the web server answers, and cannot reach sendimage");
                match (&direct, self.front.socket_obstacle(&self.config.server.listen)) {
                    (_, Some(obstacle)) => finding
                        .seen(obstacle)
                        .fix("let the web server's user in: server.listen_mode and the modes of the socket's folders"),
                    (Err(_), None) => {
                        finding.fix("start sendimage, or correct server.listen: its own address is silent too")
                    }
                    (Ok(_), None) => finding.fix(format!(
                        "upstream sendimage: server {}; and see the web server's error log",
                        self.config.server.listen
                    )),
                }
            }
            401 if answer.says("Unauthorized") => match arrives {
                true => finding(Cause::CredentialsLost, "the web server keeps the credentials to itself")
                    .fix(self.in_route("location ^~ PREFIX: no proxy_set_header Cookie or Authorization")),
                false => finding(Cause::NeedsCredentials, "this route asks who it is, and was not told").fix(
                    "give --header 'Authorization: Bearer ...' or --header 'Cookie: ...' (sendimage token mints one)",
                ),
            },
            403 if answer.says("Forbidden") && !arrives => match self.skew(answer) {
                Some(seen) => finding(Cause::ClockSkew, "clocks differ: links end too early or too late").seen(seen),
                None => finding(Cause::KeyMismatch, "sendimage does not take what this config's key signs")
                    .fix("the gate has other keys: give check its config, or send it SIGHUP"),
            },
            404 if answer.is_gates_not_found() && direct.as_ref().is_ok_and(Answer::is_gates_not_found) => {
                finding(Cause::OldGate, "sendimage is reached, and knows of no canary or no such route")
                    .fix("it may be of an older version than this command, or run with another config: restart it")
            }
            _ if arrives
                && (answer.is_gates_not_found() || answer.says("Malformed URL") || answer.says("Forbidden")) =>
            {
                finding(Cause::PrefixChanged, "the web server changes the path before sendimage sees it")
                    .fix(self.in_route(
                    "location ^~ PREFIX: proxy_pass http://sendimage; without a path behind the name, and no rewrite",
                ))
            }
            _ if !answer.is_gates() => {
                finding(Cause::NoPublicLocation, "nothing at this URL leads to sendimage").fix(self.in_route(
                    "server: location ^~ PREFIX { proxy_pass http://sendimage; ... } as proxy-conf prints it",
                ))
            }
            _ => finding(Cause::Unknown, "the canary's mirror was not answered as it is"),
        }
    }

    /// Real URLs end in a name with an extension, which a regex location may take.
    async fn named_like_an_image(&self) -> Result<(), Box<Finding>> {
        for name in ["canary.png", "canary.jpg", "canary.webp"] {
            let Some(path) = self.sign(Kind::Mirror, name) else { continue };
            let answer = self.public.get(&path).await.map_err(|error| self.unasked(&error))?;
            if mirror_in(&answer).is_none() {
                let says = format!("a regex location takes URLs that end in {:?} away", &name[6..]);
                let fix = self.in_route("location ^~ PREFIX: with ^~ no regex location is tried");
                return Err(self
                    .error(Cause::RegexTakesPublic, says)
                    .seen(format!("the same URL without a name arrives; with {name:?}: {}", answer.words()))
                    .fix(fix)
                    .into());
            }
        }
        Ok(())
    }

    /// The signature is over the path, and the gate decodes it once: it has to come as the browser sent it.
    async fn as_it_was_sent(&self) -> Result<(), Box<Finding>> {
        let Some(path) = self.sign(Kind::Mirror, ODD_NAME) else { return Ok(()) };
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = format!("{folder}/{ODD_SPELLING}");
        let asked = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let answer = self.public.get(&asked).await.map_err(|error| self.unasked(&error))?;
        let arrived = mirror_in(&answer).map(|mirror| mirror.target);
        if arrived.as_deref().is_some_and(|target| target.ends_with(&path)) {
            return Ok(());
        }
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let seen = match &arrived {
            Some(target) => format!("sent {ODD_SPELLING:?}, arrived {:?}", name(target)),
            None => format!("sent {ODD_SPELLING:?}: {}", answer.words()),
        };
        let fix = "location ^~ PREFIX: proxy_pass http://sendimage; with no slash and no path behind the name, and no rewrite";
        let says = "the web server decodes the path and writes it anew: signatures are over what the browser sent";
        Err(self.error(Cause::TargetRewritten, says).seen(seen).fix(self.in_route(fix)).into())
    }

    /// What a stranger may write into a request, and what must come along.
    async fn spoofed(&self, findings: &mut Vec<Finding>) -> Result<(), Box<Finding>> {
        let Some(path) = self.sign(Kind::Mirror, "") else { return Ok(()) };
        let header = Some(self.config.log.client_address_header.as_str()).filter(|name| !name.is_empty());
        let mut headers = vec![("X-Sendimage-Again", "1")];
        headers.extend(header.map(|name| (name, NOBODY)));
        // Not where they decide: they would be refused.
        if self.route.auth == AuthMode::Off {
            headers.extend([(COOKIE.as_str(), "canary=1"), (AUTHORIZATION.as_str(), "Basic Y2FuYXJ5")]);
        }
        let answer = self.public.ask(hyper::Method::GET, &path, &headers).await;
        let answer = answer.map_err(|error| self.unasked(&error))?;
        let Some(seen) = mirror_in(&answer) else {
            return Err(self.error(Cause::Unknown, "not answered with these headers").seen(answer.words()).into());
        };
        if seen.has_again {
            let says = "a browser may ask for the second look, which costs a look at the disk each time";
            let fix = self.in_route("location ^~ PREFIX: proxy_set_header X-Sendimage-Again \"\";");
            let seen = "X-Sendimage-Again: 1 from outside reached sendimage";
            findings.push(self.error(Cause::AgainFromOutside, says).seen(seen).fix(fix));
        }
        // Where nginx asks for verdicts, routes share the location that asks, and what the others want comes along.
        let is_shared = self.mode == OffloadMode::AuthRequest
            && self.signer.verifier.table().routes().iter().any(|route| route.auth != AuthMode::Off);
        let is_told = self.route.auth == AuthMode::Off && (seen.has_cookie || seen.has_authorization);
        if is_told && !is_shared {
            let says = "cookies or passwords reach sendimage, where signatures alone decide";
            let lines = "proxy_set_header Cookie \"\"; proxy_set_header Authorization \"\";";
            let fix = self.in_route(&format!("location ^~ PREFIX: {lines}"));
            findings.push(self.warning(Cause::CredentialsPassed, says).fix(fix));
        }
        if let Some(header) = header.filter(|_| seen.believes_client) {
            let fix = self.in_route(&format!("location ^~ PREFIX: proxy_set_header {header} $remote_addr;"));
            match seen.client.as_deref() {
                Some(NOBODY) => {
                    let says = "a browser writes its own address into sendimage's log";
                    let evidence = format!("{header}: {NOBODY} from outside reached sendimage");
                    findings.push(self.error(Cause::ClientAddressSpoofed, says).seen(evidence).fix(fix));
                }
                Some(address) if address.parse::<std::net::IpAddr>().is_ok() => {}
                _ => {
                    let says = "sendimage's log does not learn who asks";
                    let evidence = format!("no address in {header}");
                    findings.push(self.warning(Cause::ClientAddressLost, says).seen(evidence).fix(fix));
                }
            }
        }
        Ok(())
    }

    /// A refusal is sendimage's own: a status and a sentence that caches and browsers are told not to keep. Or the status with a
    /// picture, where the operator has put one in the sentence's place.
    async fn refusal(&self, findings: &mut Vec<Finding>) -> Result<(), Box<Finding>> {
        let Some(path) = self.sign(Kind::Mirror, "") else { return Ok(()) };
        let at = self.route.prefix.len();
        let other = if path[at..].starts_with('A') { "B" } else { "A" };
        let forged = format!("{}{other}{}", &path[..at], &path[at + 1..]);
        let answer = self.public.get(&forged).await.map_err(|error| self.unasked(&error))?;
        // nginx words a refusal itself where it asks for verdicts.
        let words_its_own = self.mode == OffloadMode::AuthRequest;
        if answer.status() == 403 && (words_its_own || answer.says("Forbidden")) {
            return Ok(());
        }
        // A picture of the site's own for refusals, with their status: no browser and no cache takes it for the image.
        let media = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if answer.status() == 403 && media.starts_with("image/") && !answer.body().is_empty() {
            let says =
                "refusals are answered with a picture of the web server's in place of a sentence; the status stays 403";
            findings.push(Finding::good(self.part(), says).seen(format!("a forged signature: {}", answer.words())));
            return Ok(());
        }
        if mirror_in(&answer).is_some() {
            return Err(self.error(Cause::KeyMismatch, "a forged signature is taken").seen(answer.words()).into());
        }
        let fix = self.in_route("location ^~ PREFIX: proxy_intercept_errors off; and no error_page in front of it");
        let says = "sendimage's refusals do not come through: the web server puts a page of its own in their place";
        let seen = format!("a forged signature: {} instead of 403 \"Forbidden\"", answer.words());
        Err(self.error(Cause::ErrorsIntercepted, says).seen(seen).fix(fix).into())
    }

    fn clock(&self, mirror: &Mirror) -> Option<Finding> {
        let there = SystemTime::UNIX_EPOCH + Duration::from_secs(mirror.unix_seconds);
        let apart = apart(there)?;
        let says = "the gate's clock and this one differ: links end too early or too late";
        let fix = "keep both right: chrony, systemd-timesyncd";
        Some(self.error(Cause::ClockSkew, says).seen(format!("{} s apart", apart.as_secs())).fix(fix))
    }

    /// By how much the web server's clock differs, if that is much.
    fn skew(&self, answer: &Answer) -> Option<String> {
        let date = answer.header(DATE.as_str())?;
        let there = http_date(date)?;
        Some(format!("{} s apart, by the web server's Date", apart(there)?.as_secs()))
    }

    /// A fix, with the route's prefix in it.
    pub(super) fn in_route(&self, fix: &str) -> String {
        fix.replace("PREFIX", &self.route.prefix)
    }
}

fn apart(there: SystemTime) -> Option<Duration> {
    let here = SystemTime::now();
    let apart = here.duration_since(there).or_else(|_| there.duration_since(here)).ok()?;
    (apart > SKEW).then_some(apart)
}

/// RFC 9110, 5.6.7, in the form that everybody sends.
fn http_date(text: &str) -> Option<SystemTime> {
    let format = time::format_description::parse_borrowed::<2>(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT",
    );
    let time = time::PrimitiveDateTime::parse(text, &format.ok()?).ok()?;
    Some(time.assume_utc().into())
}

fn mirror_in(answer: &Answer) -> Option<Mirror> {
    serde_json::from_slice(answer.body()).ok().filter(|_| answer.status() == 200)
}

/// Headers of an answer that are for the web server alone.
pub(super) fn leaked(answer: &Answer) -> impl Iterator<Item = &str> {
    let names = answer.0.headers().keys().map(|name| name.as_str());
    names.filter(|name| name.starts_with("x-sendimage-") || name.starts_with("x-accel-") || *name == "x-sendfile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_web_servers_write_them() {
        let then = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
        assert!(apart(then).is_some() && apart(SystemTime::now()).is_none());
    }

    #[test]
    fn the_odd_name_is_one_name_in_two_spellings() {
        let decoded = percent_encoding::percent_decode_str(ODD_SPELLING).decode_utf8().unwrap();
        assert_eq!(decoded, ODD_NAME);
    }
}
