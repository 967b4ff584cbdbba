//! From the gate's answer to the file: the causes of "X-Accel-Redirect gives 404", told apart.
//!
//! nginx says the same 404 for nearly all of them. So the same file is asked for by other ways, each of which works with one
//! fault only: with two slashes behind the prefix (an `alias` without its own), by a name without an extension (a regex
//! location), by where `root` in place of `alias` would look. And nginx comes back to the gate, marked, from the right location
//! alone.

use std::path::PathBuf;

use super::{
    Answer, Cause, Finding, Look,
    canary::{ASKED_AGAIN_UNMARKED, ASKED_PLAINLY, Kind, NO_VERDICT_ASKED},
    reach::leaked,
};
use crate::{
    config::{OffloadMode, StoreKind},
    remote::RemoteError,
};

type Found = Result<(), Box<Finding>>;

impl Look<'_> {
    /// The canary handed over, in the way that the route has.
    pub(super) async fn hand_over(&self, findings: &mut Vec<Finding>) {
        let found = match self.mode {
            OffloadMode::Accel => self.accel(findings).await,
            OffloadMode::AuthRequest => self.judged(findings).await,
            OffloadMode::Redirect => self.redirect(findings).await,
            OffloadMode::Direct | OffloadMode::Sendfile => self.plain(findings).await,
        };
        if let Err(finding) = found {
            findings.push(*finding);
        }
    }

    async fn ask(&self, kind: Kind) -> Result<Answer, Box<Finding>> {
        self.get(kind).await.map_err(|error: RemoteError| Box::new(self.unasked(&error)))
    }

    async fn accel(&self, findings: &mut Vec<Finding>) -> Found {
        let answer = self.ask(Kind::File).await?;
        self.internal(&answer).await?;
        self.bytes(&answer)?;
        self.image_headers(&answer, findings);
        self.conditions(Kind::File, &answer, findings).await;
        self.closed(findings).await;
        self.again(findings).await
    }

    async fn judged(&self, findings: &mut Vec<Finding>) -> Found {
        // What no verdict settles goes by way of the internal location; both ways read the same folder.
        let plain = self.ask(Kind::File).await?;
        self.internal(&plain).await?;
        let answer = self.ask(Kind::Judged).await?;
        if answer.status() != 200 {
            let place = self.in_route("location ^~ PREFIX");
            let finding = |says: &str| self.error(Cause::VerdictUnused, says).seen(answer.words());
            return Err(Box::new(if answer.says(ASKED_PLAINLY) {
                finding("nginx has the verdict, and does not find the file that it names").fix(format!(
                    "{place}: root {}; try_files /$sendimage_path @plain; and auth_request_set $sendimage_path \
                     $upstream_http_x_sendimage_path;",
                    self.root()
                ))
            } else if answer.says(NO_VERDICT_ASKED) {
                finding("nginx does not ask for verdicts: each image costs a request to sendimage")
                    .fix(format!("{place}: auth_request /_verdict; and location = /_verdict as proxy-conf prints it"))
            } else {
                finding("what nginx has a verdict on is not served").fix(format!("{place}: as proxy-conf prints it"))
            }));
        }
        self.bytes(&answer)?;
        self.image_headers(&answer, findings);
        self.conditions(Kind::Judged, &answer, findings).await;
        self.closed(findings).await;
        self.again(findings).await
    }

    async fn redirect(&self, findings: &mut Vec<Finding>) -> Found {
        let answer = self.ask(Kind::File).await?;
        let location = answer.header("location").map(str::to_owned);
        let Some(location) = location.filter(|_| matches!(answer.status(), 301 | 302 | 307)) else {
            let says = "sendimage redirects, and no redirect comes out";
            let fix = self.in_route("location ^~ PREFIX: proxy_redirect off; and no proxy_intercept_errors");
            return Err(self.error(Cause::ErrorsIntercepted, says).seen(answer.words()).fix(fix).into());
        };
        let file = self.public.elsewhere(&location).await.map_err(|error| self.unasked(&error))?;
        if file.status() != 200 {
            let place = self.answering_location();
            if file.status() == 403 {
                return Err(self.unreadable(&file).into());
            }
            let says = "the redirect leads to where the file is not published";
            let mut finding = self.error(Cause::NoPublishedLocation, says).seen(file.words());
            finding.evidence.extend(self.front.alias_of(&self.config.offload.redirect_url));
            return Err(finding.fix(format!("{place} {{ alias {}/; }} with both slashes", self.root())).into());
        }
        self.bytes(&file)?;
        if self.config.store.kind == StoreKind::Fs && self.config.offload.redirect_url.starts_with('/') {
            self.image_headers(&file, findings);
        }
        Ok(())
    }

    /// What sendimage sends itself, or a web server by another header than nginx's.
    async fn plain(&self, findings: &mut Vec<Finding>) -> Found {
        let answer = self.ask(Kind::File).await?;
        if answer.status() != 200 || answer.body().is_empty() {
            let finding = self.error(Cause::AccelIgnored, "the canary does not come out").seen(answer.words());
            return Err(Box::new(match self.mode {
                OffloadMode::Sendfile => {
                    finding.fix("the web server's X-Sendfile switch and folder, as proxy-conf prints them")
                }
                _ => finding.fix(self.in_route("location ^~ PREFIX: as proxy-conf prints it")),
            }));
        }
        self.bytes(&answer)?;
        self.image_headers(&answer, findings);
        self.conditions(Kind::File, &answer, findings).await;
        Ok(())
    }

    /// Whether an `X-Accel-Redirect` led to the file, and why not.
    async fn internal(&self, answer: &Answer) -> Found {
        let leaks: Vec<&str> = leaked(answer).filter(|name| name.starts_with("x-accel-")).collect();
        if !leaks.is_empty() {
            let says = "the web server passes X-Accel-Redirect on to browsers: it is not nginx, or was told to";
            let fix = self.in_route(
                "location ^~ PREFIX: no proxy_pass_header X-Accel-Redirect and no proxy_ignore_headers; or another \
                       offload.mode (sendfile for Apache and lighttpd, direct for anything else)",
            );
            return Err(self.error(Cause::AccelPassedThrough, says).seen(leaks.join(", ")).fix(fix).into());
        }
        match answer.status() {
            200 if answer.body().is_empty() => {
                let says = "nginx does not heed X-Accel-Redirect: browsers get an answer without a byte";
                let fix = self.in_route(
                    "location ^~ PREFIX: no proxy_ignore_headers X-Accel-Redirect (it belongs to the other locations)",
                );
                Err(self.error(Cause::AccelIgnored, says).seen("200 with no body").fix(fix).into())
            }
            200 => Ok(()),
            _ if self.config.store.kind == StoreKind::S3 => {
                let says = "nginx does not get the canary from the object store";
                let fix = format!("{}: as proxy-conf prints it, and see nginx's error log", self.answering_location());
                Err(self.error(Cause::NoInternalLocation, says).seen(answer.words()).fix(fix).into())
            }
            403 if !answer.says("Forbidden") => Err(self.unreadable(answer).into()),
            _ if answer.came_back() => Err(self.not_found_inside(answer).await.into()),
            _ => Err(self.not_inside(answer).await.into()),
        }
    }

    /// nginx looked where it should, and may not read what is there.
    fn unreadable(&self, answer: &Answer) -> Finding {
        let seen = format!("nginx's own {}", answer.words());
        let file = self.file();
        match self.front.obstacle(&file) {
            Some(obstacle) => {
                let says = "nginx's user may not read the store";
                let fix = format!(
                    "let it in: {}; or store.dir_mode and store.file_mode, or the user line of nginx.conf",
                    obstacle.remedy
                );
                self.error(Cause::WrongUser, says).seen(seen).seen(obstacle.says).fix(fix)
            }
            None if has_link(&self.config.store.root) => self.link_refused(&seen),
            None => {
                let says = "nginx's user may not read the store";
                let fix = "let nginx's user enter each folder of store.root and read its files (store.dir_mode, store.file_mode, \
                           or the folders' owners); SELinux and AppArmor have a say too";
                self.error(Cause::WrongUser, says).seen(seen).fix(fix)
            }
        }
    }

    /// For a link in place of a folder nginx says 404, for one in place of a file 403.
    fn link_refused(&self, seen: &str) -> Finding {
        let says = "a symbolic link is on the way to the store, and disable_symlinks refuses it";
        let real = self.config.store.root.canonicalize().unwrap_or_else(|_| self.config.store.root.clone());
        let seen_link = format!("{} is {}", self.root(), real.display());
        let fix = format!("store.root = {real:?}, and print the config again: disable_symlinks on from= that");
        self.error(Cause::LinkRefused, says).seen(seen).seen(seen_link).fix(fix)
    }

    /// The right location was reached, and came back: the file is not where it looks.
    async fn not_found_inside(&self, answer: &Answer) -> Finding {
        let place = self.internal_place();
        let seen = "nginx came back from the internal location: it looked there, and the file was not where it looked";
        if self.serves(Kind::Slashed).await {
            return self.alias_slash(seen);
        }
        if self.serves_by_root().await {
            return self.root_for_alias(seen);
        }
        if has_link(&self.config.store.root)
            && !self.front.looks_elsewhere(&self.config.offload.internal_prefix, &self.root())
        {
            return self.link_refused(seen);
        }
        let says = "nginx looks into another folder than sendimage writes to";
        let mut finding = self.error(Cause::WrongStore, says).seen(seen).seen(answer.words());
        finding.evidence.extend(self.front.alias_of(&self.config.offload.internal_prefix));
        if self.file().is_file() {
            finding.evidence.push(format!("sendimage wrote the canary to {}", self.file().display()));
        }
        finding.fix(format!(
            "{place}: alias {}/; and where nginx runs in a container or on another host, mount the same folder there",
            self.root()
        ))
    }

    /// Some other location answered, or another server.
    async fn not_inside(&self, answer: &Answer) -> Finding {
        let prefix = &self.config.offload.internal_prefix;
        let bare = self.get(Kind::Bare).await;
        if bare.as_ref().is_ok_and(Answer::came_back) {
            let says = "a regex location takes the renditions from the internal location";
            let seen =
                "a name without an extension is looked for in the internal location, one with an extension elsewhere";
            let fix = format!("location ^~ {prefix}: with ^~ no regex location is tried");
            let mut finding = self.error(Cause::RegexTakesInternal, says).seen(seen).seen(answer.words()).fix(fix);
            finding.evidence.extend(self.front.regex_locations());
            return finding;
        }
        if self.serves(Kind::Slashed).await {
            return self.alias_slash("with two slashes behind the prefix the file is found");
        }
        if self.serves_by_root().await {
            return self.root_for_alias("the file is found below the prefix as well as at its place");
        }
        // What the location says to strangers. As printed, it sends them to the gate, which knows of nothing there.
        let inside = self.public.elsewhere(&format!("{prefix}canary")).await;
        let nowhere = self.public.elsewhere(&format!("/canary-{}/canary", self.nonce_text())).await;
        if let (Ok(inside), Ok(nowhere)) = (&inside, &nowhere)
            && (self.front.has_beside(prefix, &self.route.prefix)
                || inside.is_gates_not_found() && !nowhere.is_gates_not_found()
                || !inside.looks_like(nowhere))
        {
            let says =
                "another proxy between this nginx and sendimage eats X-Accel-Redirect, and looks for the file itself";
            let fix = "the inner proxy: proxy_ignore_headers X-Accel-Redirect; proxy_pass_header X-Accel-Redirect; proxy_pass_header \
                       X-Accel-Expires; or let the outer upstream ask sendimage itself";
            return self
                .error(Cause::InnerProxy, says)
                .seen(format!("the outer nginx has its internal location ({})", inside.words()))
                .seen(format!("and does not come to it: {}", answer.words()))
                .fix(fix);
        }
        if let Some(other) = self.front.location_of(&self.config.store.root, prefix) {
            let says = "nginx has the internal location under another prefix";
            let fix = format!("location ^~ {prefix}, or offload.internal_prefix = the other one");
            return self.error(Cause::WrongPrefix, says).seen(other).seen(answer.words()).fix(fix);
        }
        let says = format!("nginx has no location {prefix} where X-Accel-Redirect could lead to");
        let fix = format!(
            "server: location ^~ {prefix} {{ internal; alias {}/; ... }} as proxy-conf prints it, in the same server block; or \
             offload.internal_prefix = the one it has",
            self.root()
        );
        let mut finding = self.error(Cause::NoInternalLocation, says).seen(answer.words());
        if let Ok(inside) = inside {
            finding.evidence.push(format!("{prefix} is answered as a path that nothing knows: {}", inside.words()));
        }
        finding.fix(fix)
    }

    fn alias_slash(&self, seen: &str) -> Finding {
        let says = "alias lacks the slash at its end: nginx joins folder and name without one";
        let fix = format!("{}: alias {}/; with both slashes", self.internal_place(), self.root());
        let mut finding = self.error(Cause::AliasSlash, says).seen(seen).seen("with two slashes it is found").fix(fix);
        finding.evidence.extend(self.front.alias_of(&self.config.offload.internal_prefix));
        finding
    }

    fn root_for_alias(&self, seen: &str) -> Finding {
        let says = "root stands in place of alias: nginx looks for the prefix below the store";
        let fix = format!("{}: alias {}/; in place of root", self.internal_place(), self.root());
        let mut finding = self.error(Cause::RootForAlias, says).seen(seen).fix(fix);
        finding.evidence.extend(self.front.alias_of(&self.config.offload.internal_prefix));
        finding
    }

    /// Nobody but the gate leads to the files.
    async fn closed(&self, findings: &mut Vec<Finding>) {
        let prefix = &self.config.offload.internal_prefix;
        let Some(key) = self.nonce.key(Kind::File).filter(|_| self.config.store.kind == StoreKind::Fs) else { return };
        if let Ok(answer) = self.public.elsewhere(&format!("{prefix}{}", key.path())).await
            && answer.body() == self.nonce.bytes()
        {
            let says = "the internal location is open to everybody, without a signature";
            let seen = format!("{prefix}... asked from outside: {}", answer.words());
            let fix = format!("{}: internal;", self.internal_place());
            findings.push(self.error(Cause::NotInternal, says).seen(seen).fix(fix));
        }
        if self.serves(Kind::Outside).await {
            let bare = prefix.trim_end_matches('/');
            let says = "the location lacks the slash at its end: there is a way out of the store's folder";
            let seen = format!("an X-Accel-Redirect to \"{bare}../...\" was followed");
            let fix = format!("location ^~ {prefix} with the slash at its end, and alias with one too");
            findings.push(self.error(Cause::LocationSlash, says).seen(seen).fix(fix));
        }
    }

    /// A file that is gone when nginx opens it is made in the same request.
    async fn again(&self, findings: &mut Vec<Finding>) -> Found {
        let answer = self.ask(Kind::Gone).await?;
        let has_bytes = answer.body() == self.nonce.bytes();
        if answer.status() == 200 && has_bytes {
            return Ok(());
        }
        let place = self.internal_place();
        let (cause, says, fix) = if has_bytes {
            let says = "a rendition that was gone is made and sent, with the status 404";
            (Cause::AgainStatus, says, format!("{place}: error_page 404 = @again; with the \"=\""))
        } else if answer.says(ASKED_AGAIN_UNMARKED) {
            let says =
                "nginx asks again for a file that is gone, without saying so: sendimage sends it to the same place";
            (Cause::AgainUnmarked, says, "location @again: proxy_set_header X-Sendimage-Again 1;".to_owned())
        } else if answer.is_gates_not_found() || answer.says("Malformed URL") || answer.says("Forbidden") {
            let says = "nginx asks again for a file that is gone, by the internal path in place of the browser's";
            (Cause::AgainTarget, says, "location @again: proxy_pass http://sendimage$request_uri;".to_owned())
        } else {
            let says = "a rendition that is gone when nginx opens it stays gone: nginx does not ask again";
            (
                Cause::AgainMissing,
                says,
                format!("{place}: error_page 404 = @again; and location @again as proxy-conf prints it"),
            )
        };
        findings.push(self.error(cause, says).seen(format!("a file that was not there: {}", answer.words())).fix(fix));
        Ok(())
    }

    /// Whether another way leads to the canary.
    async fn serves(&self, kind: Kind) -> bool {
        self.get(kind).await.is_ok_and(|answer| answer.status() == 200 && answer.body() == self.nonce.bytes())
    }

    /// Whether nginx looks where `root` in place of `alias` would: the file is laid there for as long as that takes. Not where the
    /// store is on another machine, or not ours to write to.
    async fn serves_by_root(&self) -> bool {
        let Some(decoy) = Decoy::lay(self) else { return false };
        let served = self.serves(Kind::File).await;
        drop(decoy);
        served
    }

    /// The canary's file, on this machine.
    fn file(&self) -> PathBuf {
        self.config.store.root.join(self.nonce.key(Kind::File).map_or(String::new(), |key| key.path().to_owned()))
    }

    fn root(&self) -> String {
        self.config.store.root.display().to_string().trim_end_matches('/').to_owned()
    }

    fn internal_place(&self) -> String {
        format!("location ^~ {}", self.config.offload.internal_prefix)
    }

    fn nonce_text(&self) -> String {
        self.nonce.key(Kind::File).map_or(String::new(), |key| key.path().replace(['/', '.'], "-"))
    }
}

fn has_link(path: &std::path::Path) -> bool {
    path.canonicalize().is_ok_and(|real| real != path)
}

/// The canary's file at the place below the store that `root` makes of the internal prefix. Taken away when dropped.
struct Decoy(PathBuf);

impl Decoy {
    fn lay(look: &Look<'_>) -> Option<Self> {
        let prefix = look.config.offload.internal_prefix.trim_matches('/');
        let top = look.config.store.root.join(prefix.split('/').next()?);
        // What is there already is somebody's.
        if look.config.store.kind != StoreKind::Fs || prefix.is_empty() || std::fs::symlink_metadata(&top).is_ok() {
            return None;
        }
        let target = look.config.store.root.join(prefix).join(look.nonce.key(Kind::File)?.path());
        let decoy = Self(top);
        std::fs::create_dir_all(target.parent()?).ok()?;
        std::fs::copy(look.file(), target).ok()?;
        Some(decoy)
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
