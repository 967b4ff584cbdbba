//! A real image, by a link as a site makes it: what the canary, which is always there, cannot tell of catalogue, sources and
//! workers.

use std::time::{Duration, SystemTime};

use hyper::header::CONTENT_TYPE;

use super::{Cause, Finding, Look};
use crate::access::{Known, Renditions, Wanted};

/// For how long the link works.
const LIFE: Duration = Duration::from_secs(300);
/// What is asked for where the config has no preset.
const SPEC: &str = "width-400";

impl Look<'_> {
    /// Asks for a rendition of an image: by the first preset, or else of a usual size.
    pub(super) async fn real(&self, reference: &str) -> Finding {
        let spec = self.config.presets.keys().next().map_or(SPEC, String::as_str);
        let route = Some(&*self.route.name);
        let wanted = Wanted {
            reference,
            renditions: Renditions::Of(spec),
            route,
            scheme: None,
            // Wagtail's links have no end.
            life: Some(LIFE).filter(|_| !self.route.native_keys.is_empty()),
            download: None,
            filename: None,
            known: Known::default(),
        };
        let links = self.signer.verifier.links(self.config, &wanted, SystemTime::now());
        let path = match links.as_ref().map(|links| links.urls().next().unwrap_or_default()) {
            Ok(url) => url.strip_prefix(&self.config.server.public_url).unwrap_or(url).to_owned(),
            Err(error) => {
                let says = format!("no link to {reference} can be made: {error}");
                return self
                    .error(Cause::ImageFails, says)
                    .fix("--image: an id (42), or a source and a path (media/a.jpg)");
            }
        };
        let answer = match self.public.followed(&path).await {
            Ok(answer) => answer,
            Err(error) => return self.unasked(&error),
        };
        let media = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if answer.status() == 200 && media.starts_with("image/") && !answer.body().is_empty() {
            return Finding::good(self.part(), format!("{reference} comes as {spec}: {}", answer.words()));
        }
        let says = format!("{reference} does not come as {spec}, though the canary does");
        let fix = "sendimage explain with the URL that sendimage sign prints for it: it says which step fails";
        self.error(Cause::ImageFails, says).seen(answer.words()).fix(fix)
    }
}
