//! A token's header and claims, taken apart strictly, and the rules that they are held to.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Grant, ImagePattern, Template, TokenError, keys::TokenKeyError};
use crate::{access::LAST_SECOND, config::JwtConfig};

/// The fields of a header that matter: which key is meant, and what it is meant to do.
#[derive(Debug)]
pub(super) struct Header {
    pub alg: String,
    pub kid: Option<String>,
}

impl Header {
    /// The header of a token in compact form.
    pub fn of(token: &str) -> Result<Self, TokenError> {
        let mut fields = part(token, 0, "the header is no JSON object in base64")?;
        // An extension that must be understood, and is not (RFC 7515, 4.1.11).
        if fields.contains_key("crit") {
            return Err(TokenError::Malformed("the header has a critical extension"));
        }
        let Some(Value::String(alg)) = fields.remove("alg") else {
            return Err(TokenError::Malformed("the header names no algorithm"));
        };
        let kid = match fields.remove("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid),
            Some(_) => return Err(TokenError::Malformed("the header's key id is no text")),
        };
        Ok(Self { alg, kid })
    }
}

/// All claims of a token.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// The claims of a token in compact form. Whether they are true is for its signature to say.
    pub fn of(token: &str) -> Result<Self, TokenError> {
        part(token, 1, "the claims are no JSON object in base64").map(Self)
    }

    /// A moment; `None` where the claim is absent.
    fn moment(&self, name: &str, malformed: &'static str) -> Result<Option<SystemTime>, TokenError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        // NumericDate: seconds, with a fraction if one likes (RFC 7519, 2). A number in quotes is none.
        let seconds = value.as_f64().filter(|_| value.is_number()).ok_or(TokenError::Malformed(malformed))?;
        if !(0.0..=LAST_SECOND as f64).contains(&seconds) {
            return Err(TokenError::Malformed(malformed));
        }
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
    }

    /// Whether a claim is this text, or a list that holds it.
    fn names(&self, name: &str, expected: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => text == expected,
            Some(Value::Array(list)) => list.iter().any(|entry| entry == expected),
            _ => false,
        }
    }

    fn images(&self) -> Result<Option<Vec<ImagePattern>>, TokenError> {
        const MALFORMED: TokenError = TokenError::Malformed("the claim images is no list of texts");
        match self.0.get("images") {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let pattern = |entry: &Value| entry.as_str().map(ImagePattern::parse).ok_or(MALFORMED);
                list.iter().map(pattern).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(MALFORMED),
        }
    }
}

/// What a token has to say to be good.
#[derive(Debug)]
pub(super) struct Rules {
    audience: Option<String>,
    issuer: Option<String>,
    leeway: Duration,
    require_images_claim: bool,
    templates: Vec<Template>,
}

impl Rules {
    pub fn new(config: &JwtConfig) -> Result<Self, TokenKeyError> {
        Ok(Self {
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway: Duration::from_secs(config.leeway_seconds),
            require_images_claim: config.require_images_claim,
            templates: config
                .images
                .iter()
                .map(|text| Template::parse(text))
                .collect::<Result<_, _>>()
                .map_err(TokenKeyError::Template)?,
        })
    }

    /// Whether a token that ends then is still alive.
    pub fn is_alive(&self, until: SystemTime, now: SystemTime) -> Result<(), TokenError> {
        // RFC 7519, 4.1.4: it is not accepted on or after that moment.
        if until + self.leeway <= now { Err(TokenError::Expired) } else { Ok(()) }
    }

    /// What the claims of a token with a good signature allow.
    pub fn grant(&self, claims: &Claims, key: &Arc<str>, now: SystemTime) -> Result<Grant, TokenError> {
        let until = claims
            .moment("exp", "exp is no date")?
            .ok_or(TokenError::Malformed("it has no exp, and would be good for ever"))?;
        self.is_alive(until, now)?;
        for (name, malformed) in [("nbf", "nbf is no date"), ("iat", "iat is no date")] {
            if claims.moment(name, malformed)?.is_some_and(|moment| moment > now + self.leeway) {
                return Err(TokenError::NotYet);
            }
        }
        match &self.audience {
            Some(audience) if !claims.names("aud", audience) => return Err(TokenError::Audience),
            // Whoever is not named must not take it (RFC 7519, 4.1.3).
            None if claims.0.contains_key("aud") => return Err(TokenError::Audience),
            _ => {}
        }
        if self.issuer.as_ref().is_some_and(|issuer| claims.0.get("iss").and_then(Value::as_str) != Some(issuer)) {
            return Err(TokenError::Issuer);
        }
        let claimed = claims.images()?;
        let images = if claimed.is_none() && self.templates.is_empty() && !self.require_images_claim {
            None
        } else {
            let templates = self.templates.iter().filter_map(|template| template.fill(&claims.0));
            Some(claimed.into_iter().flatten().chain(templates).collect())
        };
        let subject = claims.0.get("sub").and_then(Value::as_str).map(str::to_owned);
        Ok(Grant { images, until, subject, key: key.clone() })
    }
}

/// One of the three parts of a token, decoded.
fn part(token: &str, index: usize, malformed: &'static str) -> Result<Map<String, Value>, TokenError> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let (Some(text), 3) = (parts.get(index), parts.len()) else {
        return Err(TokenError::Malformed("it has not three parts"));
    };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed(malformed))?;
    let unique: Unique = serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed(malformed))?;
    Ok(unique.0)
}

/// A JSON object that has no name twice: which of two `sub` counts is nothing that two readers need to agree on.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object without repeated names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name is there twice"));
                    }
                }
                Ok(Unique(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
