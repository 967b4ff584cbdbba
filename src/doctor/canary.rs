//! The canary: a rendition of an image that does not exist, which only `check --url` asks for.
//!
//! Its URL is a signed URL like any other, for a source that no config can name, and it ends within minutes: nobody without a
//! signing key can ask for one. The gate that is asked puts a small file into the store, under a name made like every other
//! and from a random number, and hands it over as it hands over every rendition. Another canary URL takes it away again; what
//! a killed check leaves is a rendition that nobody wants, like any other that `gc` removes.
//!
//! A route without native keys takes a canary in Wagtail's shape: the id 0, which no table has, and everything in the spec.

use std::time::{Duration, SystemTime};

use crate::{
    access::{Link, Route, Scheme, SignedRequest, Subject, Verifier},
    model::{ImageFormat, MediaPath, RenditionKey, SourceKey, SourceRef, SourceVersion, hex},
};

/// The name of the canaries' source. A source in a config has no dot in its name.
pub(super) const SOURCE: &str = "canary.sendimage";
/// How Wagtail-shaped canaries begin, where others have a filter spec. No filter spec begins so.
const SPEC: &str = "canary.sendimage";
/// For how long the doctor's URLs work.
pub const LIFE: Duration = Duration::from_secs(300);
/// The longest life that a gate takes: clocks may differ a little.
const LONGEST_LIFE: Duration = Duration::from_secs(900);
/// What the gate says when the web server did not find the file and came back, marked.
pub const ASKED_AGAIN: &str = "canary: asked again";
/// What it says when the web server came back without the mark.
pub const ASKED_AGAIN_UNMARKED: &str = "canary: asked again without the mark";
/// What it says when nginx asks plainly for what it has a verdict on.
pub const ASKED_PLAINLY: &str = "canary: asked plainly after a verdict";
/// The same, where it was not asked for a verdict before.
pub const NO_VERDICT_ASKED: &str = "canary: asked plainly without a verdict";

/// What a canary is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tell what the request looked like when it arrived.
    Mirror,
    /// Be handed over.
    File,
    /// The same, with two slashes behind the internal prefix: there where an `alias` lacks its own.
    Slashed,
    /// Lead to a name without an extension, which is not there: a regex location does not take it.
    Bare,
    /// Lead out of the internal location and back to the file, where a missing slash lets it.
    Outside,
    /// Not be there until the web server asks again.
    Gone,
    /// Be handed over by a verdict.
    Judged,
    /// Be taken away.
    Over,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Mirror, Self::File, Self::Slashed, Self::Bare, Self::Outside, Self::Gone, Self::Judged, Self::Over];

    fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::File => "file",
            Self::Slashed => "slashed",
            Self::Bare => "bare",
            Self::Outside => "outside",
            Self::Gone => "gone",
            Self::Judged => "judged",
            Self::Over => "over",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }

    /// Those with a file of their own. What leads to the plain one by another way shares it.
    fn file(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Judged => "judged",
            Self::Mirror | Self::File | Self::Slashed | Self::Bare | Self::Outside | Self::Over => "file",
        }
    }
}

/// One examination's canary: 128 random bits, in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(hex(&bytes)))
    }

    fn parse(text: &str) -> Option<Self> {
        let is_one = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_one.then(|| Self(text.to_owned()))
    }

    /// Everything that is stored for it.
    pub fn source_key(&self) -> Option<SourceKey> {
        self.location().map(|location| SourceKey::new(&location))
    }

    /// The file that a kind is about.
    pub fn key(&self, kind: Kind) -> Option<RenditionKey> {
        self.marker(kind.file())
    }

    /// A note of the gate's to itself: the web server has been here.
    pub fn marker(&self, recipe: &str) -> Option<RenditionKey> {
        let version = SourceVersion { bytes: 0, modified_ns: 0, etag: None, file_hash: None };
        Some(RenditionKey::new(&self.location()?, &version, recipe, ImageFormat::Png))
    }

    fn location(&self) -> Option<SourceRef> {
        Some(SourceRef { source: SOURCE.to_owned(), path: MediaPath::parse(&self.0).ok()? })
    }

    /// The file: a PNG of one pixel with this number behind it, long enough for any filter that would compress it.
    pub fn bytes(&self) -> Vec<u8> {
        let tail = format!("canary of sendimage {}\n", self.0).repeat(40);
        [PIXEL, tail.as_bytes()].concat()
    }
}

/// A grey pixel.
const PIXEL: &[u8] = b"\x89PNG\x0d\x0a\x1a\x0a\x00\x00\x00\x0dIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\x0aIDAT\
                       x\xdach\x00\x00\x00\x82\x00\x81\xdaE\x08;\x00\x00\x00\x00IEND\xaeB`\x82";

/// A canary that a signed URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Which one.
    pub nonce: Nonce,
    /// To do what.
    pub kind: Kind,
    /// How much of its life is left.
    pub left: Duration,
}

impl Canary {
    /// The canary that a signed request asks for, if it does.
    pub fn of(signed: &SignedRequest<'_>, now: SystemTime) -> Option<Self> {
        let (nonce, kind, left) = match signed.subject() {
            Subject::Path { source, path } if source == SOURCE => {
                let mut parts = path.splitn(3, '/');
                (parts.next()?, parts.next()?, signed.link_left()?)
            }
            Subject::Id(id) if signed.scheme() == Scheme::Wagtail && id.parse() == Ok(0_u64) => {
                let mut parts = signed.named_spec().strip_prefix(SPEC)?.strip_prefix('.')?.splitn(3, '.');
                let (nonce, kind, expires) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
                let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expires))?;
                (nonce, kind, end.duration_since(now).ok()?)
            }
            _ => return None,
        };
        let canary = Self { nonce: Nonce::parse(nonce)?, kind: Kind::parse(kind)?, left };
        (left <= LONGEST_LIFE).then_some(canary)
    }
}

/// Signs canaries for a route.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// The keys.
    pub verifier: &'a Verifier,
    /// The route.
    pub route: &'a Route,
    /// What stands where a filter spec does: a route may serve presets only.
    pub spec: &'a str,
}

impl Signer<'_> {
    /// The path and query of a canary. `tail` is what comes last: a name as images have it, or nothing. `None` where no key of the
    /// route signs it.
    pub fn sign(&self, nonce: &Nonce, kind: Kind, tail: &str, now: SystemTime) -> Option<String> {
        let end = now.checked_add(LIFE)?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let separator = if tail.is_empty() { "" } else { "/" };
        let path = format!("{}/{}{separator}{tail}", nonce.0, kind.name());
        let subject = Subject::Path { source: SOURCE.into(), path: path.into() };
        let link = Link { expires: Some(end), ..Link::new(&subject, self.spec) };
        let native = self.verifier.sign(self.route, Scheme::Native, &link, now);
        native.or_else(|| {
            if self.route.presets_only {
                return None;
            }
            let spec = format!("{SPEC}.{}.{}.{end}", nonce.0, kind.name());
            let subject = Subject::Id("0".into());
            let link = Link { filename: tail, ..Link::new(&subject, &spec) };
            self.verifier.sign(self.route, Scheme::Wagtail, &link, now)
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;
    use crate::{
        access::Bearer,
        config::{Config, Secret, SigningKeyConfig},
    };

    fn config(native: bool) -> Config {
        let mut config = Config::default();
        let key = || Secret::new("0123456789abcdef".into());
        match native {
            true => {
                let key = SigningKeyConfig { id: "a".into(), secret: Some(key()), ..SigningKeyConfig::default() };
                config.signing.keys = vec![key];
            }
            false => config.signing.wagtail_keys = vec![key()],
        }
        config
    }

    fn read(verifier: &Verifier, target: &str, now: SystemTime) -> Option<Canary> {
        let (route, url) = verifier.table().resolve_target(target).ok()?;
        let signed = verifier.verify_signature(route, &url, now).ok()?;
        let verified = verifier.authorise_now(&signed, Bearer { headers: &HeaderMap::new(), target }, now)?.ok()?;
        Canary::of(&verified, now)
    }

    #[test]
    fn both_schemes_carry_every_kind_and_end() {
        let now = SystemTime::now();
        for native in [true, false] {
            let verifier = Verifier::new(&config(native)).unwrap();
            let signer = Signer { verifier: &verifier, route: &verifier.table().routes()[0], spec: "original" };
            let nonce = Nonce::fresh().unwrap();
            for kind in Kind::ALL {
                for tail in ["", "a.png"] {
                    let target = signer.sign(&nonce, kind, tail, now).unwrap();
                    let canary = read(&verifier, &target, now).unwrap();
                    assert_eq!((&canary.nonce, canary.kind), (&nonce, kind), "{target}");
                    assert_eq!(read(&verifier, &target, now + LIFE + Duration::from_secs(1)), None, "its life is over");
                    let early = now - LONGEST_LIFE;
                    assert_eq!(read(&verifier, &target, early), None, "it lives longer than canaries do");
                }
            }
        }
    }

    #[test]
    fn an_ordinary_link_is_no_canary() {
        let verifier = Verifier::new(&config(true)).unwrap();
        let route = &verifier.table().routes()[0];
        let nonce = Nonce::fresh().unwrap();
        let path = format!("{}/file", nonce.0);
        let subject = Subject::Path { source: "media".into(), path: path.clone().into() };
        let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 60;
        let link = Link { expires: Some(end), ..Link::new(&subject, "original") };
        let target = verifier.sign(route, Scheme::Native, &link, SystemTime::now()).unwrap();
        assert_eq!(read(&verifier, &target, SystemTime::now()), None);
        // One without an end would be one for ever.
        let subject = Subject::Path { source: SOURCE.into(), path: path.into() };
        let target = verifier.sign(route, Scheme::Native, &Link::new(&subject, "original"), SystemTime::now()).unwrap();
        assert_eq!(read(&verifier, &target, SystemTime::now()), None);
    }

    #[test]
    fn a_file_is_of_one_canary_and_a_picture() {
        let (one, other) = (Nonce::fresh().unwrap(), Nonce::fresh().unwrap());
        assert_ne!(one.bytes(), other.bytes());
        assert_ne!(one.key(Kind::File).unwrap().path(), one.key(Kind::Gone).unwrap().path());
        assert_ne!(one.source_key(), other.source_key());
        let mut reader = png::Decoder::new(std::io::Cursor::new(one.bytes())).read_info().unwrap();
        let mut pixel = [0; 4];
        assert_eq!(reader.next_frame(&mut pixel).unwrap().width, 1);
    }
}
