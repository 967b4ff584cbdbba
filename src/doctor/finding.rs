//! What the doctor has to say: one sentence, what it was seen by, and the line to change.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Images are served; something is slower, or less safe to rely on, than it could be.
    Warning,
    /// Images are not served, or not as they must be.
    Error,
}

/// Everything that the doctor can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each has its sentence where it is found; the README has a table of them")]
pub enum Cause {
    // On the way to the gate.
    Unreachable,
    Redirected,
    GateUnreachable,
    NoPublicLocation,
    RegexTakesPublic,
    KeyMismatch,
    NoKey,
    ClockSkew,
    PrefixChanged,
    TargetRewritten,
    ErrorsIntercepted,
    NeedsCredentials,
    CredentialsLost,
    CredentialsPassed,
    SiteFails,
    OldGate,
    OtherConfig,
    AgainFromOutside,
    ClientAddressLost,
    ClientAddressSpoofed,
    NoKeepalive,
    LeakedHeaders,
    // Between the gate's answer and the file.
    AccelIgnored,
    AccelPassedThrough,
    WrongUser,
    LinkRefused,
    AliasSlash,
    LocationSlash,
    RootForAlias,
    WrongStore,
    RegexTakesInternal,
    InnerProxy,
    NoInternalLocation,
    WrongPrefix,
    NotInternal,
    VerdictUnused,
    NoPublishedLocation,
    // When the file is gone.
    AgainMissing,
    AgainUnmarked,
    AgainTarget,
    AgainStatus,
    // On what comes back.
    LostHeaders,
    LostSecurity,
    LostCors,
    LostCaching,
    CachingChanged,
    LostDisposition,
    WrongType,
    Compressed,
    ChangedBytes,
    NoRanges,
    NoValidators,
    HeadFails,
    // On an image of the operator's.
    ImageFails,
    // On this machine.
    SqliteWal,
    WrongClock,
    // What has none of these.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub part: String,
    /// Whether it is no error.
    pub ok: bool,
    /// A sentence about it.
    pub says: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What was seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to change, in terms of the config that `proxy-conf` prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn good(part: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            part: part.into(),
            ok: true,
            says: says.into(),
            severity: Severity::Ok,
            cause: None,
            evidence: Vec::new(),
            fix: None,
        }
    }

    /// An error, and its cause.
    pub fn error(part: impl Into<String>, cause: Cause, says: impl Into<String>) -> Self {
        Self { ok: false, severity: Severity::Error, cause: Some(cause), ..Self::good(part, says) }
    }

    /// A warning, and its cause.
    pub fn warning(part: impl Into<String>, cause: Cause, says: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, cause: Some(cause), ..Self::good(part, says) }
    }

    /// From what a part's own probe said.
    pub fn of(part: impl Into<String>, probed: Result<String, impl std::fmt::Display>) -> Self {
        match probed {
            Ok(says) => Self::good(part, says),
            Err(error) => Self { ok: false, severity: Severity::Error, ..Self::good(part, error.to_string()) },
        }
    }

    /// The same with one thing more that was seen.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// The same with what to change.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
