//! Values with a spelling of their own: sizes in bytes, file modes, listening addresses, lists from the environment.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer as _},
};

/// A number of bytes: a plain number, or a text such as `"512MiB"`, `"20 GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = bytesize::ByteSize::deserialize(deserializer)?;
        Ok(Self(size.as_u64()))
    }
}

/// A word of a fixed list. Asked as a text, so that the error names the list: by itself the library names a Rust type.
pub(super) fn one_of<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

/// As [`one_of`], where the key may be absent.
pub(super) fn one_of_these<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    one_of(deserializer).map(Some)
}

/// Permission bits, written in octal: `"0644"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(D::Error::custom(format!("{text:?} is not a file mode such as \"0644\""))),
        }
    }
}

/// Where to listen: an address and port, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(format!("{text:?}: the path of a unix socket must be absolute")),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("{text:?} is neither ADDRESS:PORT (an IP address) nor unix:/PATH")),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A list. In a file it is an array; in the environment, where all values are text, it is a JSON array.
pub fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Json(String),
        Array(Vec<serde_json::Value>),
    }
    let array = match Spelling::deserialize(deserializer)? {
        Spelling::Array(array) => serde_json::Value::Array(array),
        Spelling::Json(text) => serde_json::from_str(&text)
            .map_err(|_| D::Error::custom("a list in the environment is written as a JSON array"))?,
    };
    // The value itself stays out of the message: lists hold secrets.
    serde_json::from_value(array).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => D::Error::custom(scrubbed(&error)),
        _ => D::Error::custom("not a list"),
    })
}

/// serde's message without the values it quotes.
fn scrubbed(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("unknown field") || text.starts_with("missing field") {
        text
    } else if text.starts_with("unknown variant")
        && let Some((_, names)) = text.split_once("expected ")
    {
        format!("an entry has a word that is not {names}")
    } else {
        "an entry has the wrong type".into()
    }
}
