//! The only maker of proofs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::HeaderMap;

use super::{
    forward::{Forward, SiteAnswer},
    keys::KeyError,
    proof::{SignedRequest, VerifiedRequest, left_until},
    refusal::{Refusal, VerifyError},
    route::{Route, RouteTable},
    scope::Scope,
    signature::{NativeFields, Scheme},
    token::{Checked, Grant, TokenError, Tokens},
    url::{SignedUrl, Subject, UrlError},
};
use crate::config::{AuthMode, Config};

/// Checks URLs against the keys of their route, and who sent them against the config's `[auth]`.
#[derive(Clone, Debug)]
pub struct Verifier {
    table: RouteTable,
    /// Where a route has `auth = "jwt"`.
    tokens: Option<Arc<Tokens>>,
    /// Where a route has `auth = "forward"`.
    forward: Option<Arc<Forward>>,
    /// Whether presets are wanted for a trial only.
    tries_presets: bool,
    /// Whether bearers are asked for a trial only.
    tries_auth: bool,
}

/// What a request says about who sent it.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// Its path and query as received.
    pub target: &'a str,
}

impl Verifier {
    /// A verifier for the config's routes and keys.
    ///
    /// # Errors
    /// The first key that is not usable.
    pub fn new(config: &Config) -> Result<Self, KeyError> {
        Self::knowing(config, None)
    }

    /// A verifier for a changed config. What was fetched for this one is still known: a reload must not depend on the network.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn renewed(&self, config: &Config) -> Result<Self, KeyError> {
        Self::knowing(config, self.tokens.as_deref())
    }

    fn knowing(config: &Config, known: Option<&Tokens>) -> Result<Self, KeyError> {
        let table = RouteTable::new(config)?;
        let has = |mode| table.routes().iter().any(|route| route.auth == mode);
        let tokens = has(AuthMode::Jwt).then(|| Tokens::new(&config.auth.jwt)).transpose()?;
        let tokens = tokens.map(|tokens| known.into_iter().fold(tokens, Tokens::with_keys_of));
        let forward =
            has(AuthMode::Forward).then(|| Forward::new(&config.auth.forward, &config.server.public_url)).transpose();
        Ok(Self {
            tokens: tokens.map(Arc::new),
            forward: forward.map_err(|error| KeyError::Forward(error.to_string()))?.map(Arc::new),
            table,
            tries_presets: config.signing.log_only,
            tries_auth: config.auth.log_only,
        })
    }

    /// The routes.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Checks a URL: signature, the key's life, expiry, preset.
    ///
    /// # Errors
    /// [`VerifyError::Refused`] for everything that is not proven; [`VerifyError::Query`] once the signature is good.
    pub fn verify_signature<'a>(
        &'a self,
        route: &'a Route,
        url: &'a SignedUrl<'a>,
        now: SystemTime,
    ) -> Result<SignedRequest<'a>, VerifyError> {
        let scheme = Scheme::of(&url.signature).ok_or(Refusal::SignatureLength)?;
        let (key_id, scope) = match scheme {
            Scheme::Wagtail => (wagtail_key_id(route, url).ok_or(Refusal::Signature)?, None),
            Scheme::Native => {
                let (key_id, scope) = native_key(route, url, now).ok_or(Refusal::Signature)?;
                (key_id, Some(scope).filter(|scope| **scope != Scope::default()))
            }
        };
        scope.map_or(Ok(()), |scope| scope.is_alive(now))?;
        let left = match scheme {
            Scheme::Wagtail => None,
            Scheme::Native => native_query(url, now, self.reads_query_tokens(route))?,
        };
        let preset = self.table.preset(&url.filter_spec);
        if preset.is_none() && scope.is_some_and(|scope| scope.presets_only) {
            return Err(Refusal::NotAPreset.into());
        }
        let trial = (preset.is_none() && route.presets_only).then_some(Refusal::NotAPreset);
        if let Some(refusal) = trial.filter(|_| !self.tries_presets) {
            return Err(refusal.into());
        }
        if let (Some(scope), Subject::Path { source, .. }) = (scope, &url.subject)
            && !scope.has_source(source)
        {
            return Err(Refusal::KeySource.into());
        }
        Ok(SignedRequest { url, route, key_id, scope, scheme, preset, left, trial })
    }

    /// Checks who sent it, as far as that can be said without waiting; `None` where it cannot.
    pub fn authorise_now<'a>(
        &self,
        signed: &SignedRequest<'a>,
        bearer: Bearer<'_>,
        now: SystemTime,
    ) -> Option<Result<VerifiedRequest<'a>, VerifyError>> {
        let found = match (signed.route.auth, &self.tokens) {
            (AuthMode::Off, _) => return Some(Ok(open(signed))),
            (AuthMode::Jwt, Some(tokens)) => {
                match token(tokens, signed, bearer).and_then(|token| tokens.check_now(token, now)) {
                    Ok(Checked::Good(grant)) => Ok(Some(grant)),
                    Ok(Checked::NeedsKeys) => return None,
                    Err(error) => Err(error.into()),
                }
            }
            (AuthMode::Forward | AuthMode::Jwt, _) => return None,
        };
        Some(self.authorised(signed, found, now))
    }

    /// Checks who sent it, asking whom it takes.
    ///
    /// # Errors
    /// [`VerifyError::Token`], [`VerifyError::Site`], or [`VerifyError::Unavailable`] when nobody can tell.
    pub async fn authorise<'a>(
        &self,
        signed: &SignedRequest<'a>,
        bearer: Bearer<'_>,
        now: SystemTime,
    ) -> Result<VerifiedRequest<'a>, VerifyError> {
        let found = match (signed.route.auth, &self.tokens, &self.forward) {
            (AuthMode::Off, ..) => return Ok(open(signed)),
            (AuthMode::Jwt, Some(tokens), _) => match token(tokens, signed, bearer) {
                Err(error) => Err(error.into()),
                Ok(token) => tokens.check(token, now).await.map(Some).map_err(VerifyError::from),
            },
            (AuthMode::Forward, _, Some(forward)) => match forward.ask(signed, bearer).await {
                Ok(SiteAnswer::Allowed) => Ok(None),
                Ok(SiteAnswer::Refused(refusal)) => Err(refusal.into()),
                Err(reason) => Err(VerifyError::Unavailable(reason)),
            },
            // `new` makes what the routes need. Were it not so: closed.
            (AuthMode::Jwt | AuthMode::Forward, ..) => Err(VerifyError::Unavailable(Arc::default())),
        };
        self.authorised(signed, found, now)
    }

    /// The proof by the signature alone, for what is no image of the site's: it has no say in who may see it.
    pub fn whoever_asks<'a>(&self, signed: &SignedRequest<'a>) -> VerifiedRequest<'a> {
        VerifiedRequest { is_private: true, ..open(signed) }
    }

    /// The proof, or the refusal; in a trial, the proof with the refusal beside it.
    fn authorised<'a>(
        &self,
        signed: &SignedRequest<'a>,
        found: Result<Option<Arc<Grant>>, VerifyError>,
        now: SystemTime,
    ) -> Result<VerifiedRequest<'a>, VerifyError> {
        match found {
            // A trial changes nothing for anybody: what is served is as open as it was.
            Err(error) if self.tries_auth => Ok(VerifiedRequest { trial: Some(error), ..open(signed) }),
            Err(error) => Err(error),
            Ok(grant) if self.tries_auth => Ok(VerifiedRequest { grant, ..open(signed) }),
            Ok(grant) => Ok(VerifiedRequest {
                grant_left: grant.as_ref().map(|grant| left_until(grant.until(), now)),
                grant,
                is_private: true,
                ..open(signed)
            }),
        }
    }

    /// What can be said about tokens and the site's view without a request, for `check`: part and sentence.
    pub async fn probe(&self) -> Vec<(&'static str, Result<String, String>)> {
        let mut found = Vec::new();
        if let Some(tokens) = &self.tokens {
            found.push(("tokens", tokens.probe().await));
        }
        if let Some(forward) = &self.forward {
            found.push(("the site's word", forward.probe().await));
        }
        found
    }

    /// Whether bearers are asked for a trial only.
    pub fn tries_auth(&self) -> bool {
        self.tries_auth
    }

    /// Which of the request's headers an answer of a route depends on, for `Vary`.
    pub fn varies_by(&self, route: &Route) -> &'static [&'static str] {
        match route.auth {
            AuthMode::Off => &[],
            _ if self.tries_auth => &[],
            AuthMode::Forward => &["Authorization", "Cookie"],
            AuthMode::Jwt if self.tokens.as_ref().is_some_and(|tokens| tokens.places().has_cookie()) => {
                &["Authorization", "Cookie"]
            }
            AuthMode::Jwt => &["Authorization"],
        }
    }

    fn reads_query_tokens(&self, route: &Route) -> bool {
        route.auth == AuthMode::Jwt && self.tokens.as_ref().is_some_and(|tokens| tokens.places().has_query())
    }
}

/// The proof for a route that asks nobody who they are.
fn open<'a>(signed: &SignedRequest<'a>) -> VerifiedRequest<'a> {
    VerifiedRequest { signed: *signed, grant: None, grant_left: None, is_private: false, trial: None }
}

/// The request's token.
fn token<'b>(tokens: &Tokens, signed: &SignedRequest<'b>, bearer: Bearer<'b>) -> Result<&'b str, TokenError> {
    tokens.places().find(bearer.headers, signed.query_tokens().iter().copied()).map(|(token, _)| token)
}

/// Every key is tried, whether or not one has fitted already: the time says nothing about which. Of two keys with one secret
/// the one that is alive counts.
fn native_key<'a>(route: &'a Route, url: &SignedUrl<'_>, now: SystemTime) -> Option<(&'a Arc<str>, &'a Scope)> {
    let fields = NativeFields {
        subject: &url.subject,
        filter_spec: &url.filter_spec,
        expires: url.query.expires.as_deref(),
        download: url.query.download.as_deref(),
    };
    route.native_keys.iter().fold(None, |found: Option<(&Arc<str>, &Scope)>, key| {
        let fits = key.mac.verifies(&fields, &url.signature);
        let found_alive = found.is_some_and(|(_, scope)| scope.is_alive(now).is_ok());
        if fits && !found_alive { Some((key.id(), key.scope())) } else { found }
    })
}

fn wagtail_key_id<'a>(route: &'a Route, url: &SignedUrl<'_>) -> Option<&'a Arc<str>> {
    let Subject::Id(id) = &url.subject else { return None };
    route.wagtail_keys.iter().fold(None, |found, key| {
        let fits = key.mac.verifies(id, &url.filter_spec, &url.signature);
        if fits { Some(key.id()) } else { found }
    })
}

/// The query of a native URL: how much of the link's life is left. `?token=` is no part of what is signed.
fn native_query(url: &SignedUrl<'_>, now: SystemTime, takes_tokens: bool) -> Result<Option<Duration>, VerifyError> {
    if let Some(problem) = url.query.problem {
        return Err(VerifyError::Query(problem));
    }
    match url.query.tokens.as_slice() {
        [] => {}
        _ if !takes_tokens => return Err(VerifyError::Query(UrlError::UnknownParameter)),
        [""] => return Err(VerifyError::Query(UrlError::EmptyParameter)),
        [_] => {}
        _ => return Err(VerifyError::Query(UrlError::RepeatedParameter)),
    }
    let Some(text) = url.query.expires.as_deref() else { return Ok(None) };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = text.parse().ok().filter(|_| digits).ok_or(VerifyError::Query(UrlError::BadExpiry))?;
    let end = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or(VerifyError::Query(UrlError::BadExpiry))?;
    Ok(Some(end.duration_since(now).map_err(|_| Refusal::Expired)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Link;
    use crate::config::{Secret, SigningKeyConfig};

    const KEY: &str = "0123456789abcdef";
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn verifier(edit: impl FnOnce(&mut Config)) -> Verifier {
        let mut config = Config::default();
        config.signing.keys = vec![SigningKeyConfig {
            id: "2026".into(),
            secret: Some(Secret::new(KEY.into())),
            ..SigningKeyConfig::default()
        }];
        config.signing.wagtail_keys = vec![Secret::new("conformance-secret-key".into())];
        config.presets.insert("hero".into(), "fill-1600x600|format-webp".into());
        edit(&mut config);
        Verifier::new(&config).expect("good keys")
    }

    fn verify<'a>(verifier: &'a Verifier, target: &'a str, now: u64) -> Result<VerifiedRequest<'a>, VerifyError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let (route, url) = verifier.table().resolve_target(target).expect("a route");
        // Proofs borrow their URL; a test's may as well live for ever.
        let signed = verifier.verify_signature(route, Box::leak(Box::new(url)), now)?;
        verifier.authorise_now(&signed, Bearer { headers: &HeaderMap::new(), target }, now).expect("nobody to ask")
    }

    #[test]
    fn the_two_native_signatures_of_the_design() {
        let verifier = verifier(|_| {});
        let route = &verifier.table().routes()[0];
        let id = Subject::Id("42".into());
        let url = verifier
            .sign(route, Scheme::Native, &Link { filename: "x.jpg", ..Link::new(&id, "fill-100x100") }, NOW)
            .expect("a key");
        assert_eq!(url, "/images/gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64/42/fill-100x100/x.jpg");
        let path = Subject::Path { source: "media".into(), path: "2024/café 1.jpg".into() };
        let spec = "width-400|format-webp";
        let link = Link { expires: Some(1_893_456_000), download: Some("My Photo.webp"), ..Link::new(&path, spec) };
        let url = verifier.sign(route, Scheme::Native, &link, NOW).expect("a key");
        assert!(url.starts_with("/images/lzDKeLQtl3Du06OULBfeMDfIWtYmVAyHAfZVh8rQjLs/media/"), "{url}");
        let verified = verify(&verifier, &url, 1_893_455_000).expect("a good URL");
        assert_eq!(verified.download(), Some("My Photo.webp"));
        assert_eq!(verified.max_age(), Duration::from_secs(1000), "never beyond the link's life");
        assert_eq!(verify(&verifier, &url, 1_893_456_001).unwrap_err(), Refusal::Expired.into());
    }

    #[test]
    fn a_native_query_is_checked_once_the_signature_is_good() {
        let verifier = verifier(|_| {});
        let good = "/images/gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64/42/fill-100x100/x.jpg";
        assert!(verify(&verifier, good, 0).is_ok());
        let unknown = verify(&verifier, &format!("{good}?v=2"), 0).unwrap_err();
        assert_eq!(unknown, VerifyError::Query(UrlError::UnknownParameter));
        // An expiry that was not signed makes another text, so the signature is bad first.
        assert_eq!(verify(&verifier, &format!("{good}?expires=9"), 0).unwrap_err(), Refusal::Signature.into());
        let wagtail = "/images/K4ei13HmFX4kK423GtwSUtWsGos=/1/width-100/x.jpg?v=2&v=3";
        assert!(verify(&verifier, wagtail, 0).is_ok(), "with a Wagtail signature the query is ignored");
    }

    #[test]
    fn every_altered_character_is_refused() {
        let verifier = verifier(|_| {});
        let good = "gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64";
        for position in 0..good.len() {
            for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
                let mut altered = good.to_owned();
                altered.replace_range(position..=position, &other.to_string());
                if altered != good {
                    let target = format!("/images/{altered}/42/fill-100x100/x.jpg");
                    assert_eq!(verify(&verifier, &target, 0).unwrap_err(), Refusal::Signature.into());
                }
            }
        }
    }

    #[test]
    fn schemes_do_not_stand_in_for_each_other() {
        // One key configured for both schemes: a MAC of one is still none of the other.
        let verifier = verifier(|config| config.signing.wagtail_keys = vec![Secret::new(KEY.into())]);
        let route = &verifier.table().routes()[0];
        let subject = Subject::Path { source: "media".into(), path: "a.jpg".into() };
        assert!(verifier.sign(route, Scheme::Wagtail, &Link::new(&subject, "original"), NOW).is_none());
        let id = Subject::Id("7".into());
        let ending = Link { expires: Some(1), ..Link::new(&id, "original") };
        assert!(verifier.sign(route, Scheme::Wagtail, &ending, NOW).is_none());
        for scheme in [Scheme::Wagtail, Scheme::Native] {
            let url = verifier.sign(route, scheme, &Link::new(&id, "original"), NOW).expect("a key");
            assert_eq!(verify(&verifier, &url, 0).expect("its own").scheme(), scheme);
        }
    }

    #[test]
    fn presets_expand_and_may_be_all_there_is() {
        let open = verifier(|_| {});
        let closed = verifier(|config| config.signing.presets_only = true);
        let id = Subject::Id("42".into());
        for scheme in [Scheme::Wagtail, Scheme::Native] {
            let sign = |spec| open.sign(&open.table().routes()[0], scheme, &Link::new(&id, spec), NOW).expect("a key");
            let url = sign("hero");
            let hero = verify(&closed, &url, 0).expect("a preset");
            assert_eq!((hero.filter_spec(), hero.preset()), ("fill-1600x600|format-webp", Some("hero")));
            assert_eq!(verify(&closed, &sign("width-1"), 0).unwrap_err(), Refusal::NotAPreset.into());
            assert!(verify(&open, &sign("width-1"), 0).is_ok());
        }
    }
}
