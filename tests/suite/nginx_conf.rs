//! A real nginx with the printed config in front of a gate of a few lines: what the config promises, asked over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use sendimage::{
    config::{AuthMode, Config, ListenAddress, OffloadMode, RenderConfig, RouteConfig, WatermarkConfig, load},
    front::{ProxyOptions, WebServer, proxy_conf},
};

/// What a system's nginx.conf says around the blocks of `conf.d`, for one without privileges.
const TEMPORARY: &str = "access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; \
                         uwsgi_temp_path d; scgi_temp_path e;\n";

const IMAGE: &[u8] = b"not quite a JPEG, but nginx does not look inside";

#[test]
fn a_hit_is_streamed_with_its_headers() {
    let site = Site::start(|_| {});
    let answer = site.get("/images/sig/42/hit/");
    assert_eq!((answer.status, answer.body.as_slice()), (200, IMAGE));
    assert_eq!(answer.all("content-type"), ["image/webp"]);
    assert_eq!(answer.all("content-disposition"), ["inline; filename=\"a.webp\""]);
    assert_eq!(answer.all("cache-control"), ["public, max-age=3600"]);
    assert_eq!(answer.all("vary"), ["Accept"]);
    assert_eq!(answer.all("content-security-policy"), ["default-src 'none'; sandbox"]);
    assert_eq!(answer.all("x-content-type-options"), ["nosniff"]);
    assert_eq!(answer.all("accept-ranges"), ["bytes"]);
    assert_eq!(answer.all("access-control-allow-origin"), ["https://app.example"]);
    assert_eq!(answer.all("cross-origin-resource-policy"), ["cross-origin"]);
    assert_eq!(answer.all("x-request-id").len(), 1);
    assert_eq!(answer.all("etag").len(), 1);
    assert!(!answer.head.to_ascii_lowercase().contains("sendimage"), "{}", answer.head);
    assert!(!answer.head.to_ascii_lowercase().contains("x-accel"), "{}", answer.head);
}

#[test]
fn an_answer_without_vary_sends_none() {
    let site = Site::start(|_| {});
    assert!(site.get("/images/sig/42/plain/").all("vary").is_empty());
}

#[test]
fn validators_ranges_and_head_are_nginxs() {
    let site = Site::start(|_| {});
    let path = "/images/sig/42/hit/";
    let etag = site.get(path).all("etag")[0].clone();

    let unchanged = site.ask("GET", path, &[("If-None-Match", &etag)], "");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.all("cache-control"), ["public, max-age=3600"]);
    assert_eq!(unchanged.all("vary"), ["Accept"]);

    let part = site.ask("GET", path, &[("Range", "bytes=4-8")], "");
    assert_eq!((part.status, part.body.as_slice()), (206, &IMAGE[4..=8]));
    assert_eq!(part.all("content-range"), [format!("bytes 4-8/{}", IMAGE.len())]);

    let outdated = site.ask("GET", path, &[("Range", "bytes=4-8"), ("If-Range", "\"other\"")], "");
    assert_eq!((outdated.status, outdated.body.as_slice()), (200, IMAGE));
    assert_eq!(site.ask("GET", path, &[("Range", "bytes=9999-")], "").status, 416);

    let head = site.ask("HEAD", path, &[], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.all("content-length"), [IMAGE.len().to_string()]);
}

#[test]
fn a_vanished_file_is_rendered_within_the_same_request() {
    let site = Site::start(|_| {});
    let path = "/images/sig/42/vanished/a%20b.webp?download=x%2Fy";
    let answer = site.get(path);
    assert_eq!((answer.status, answer.body.as_slice()), (200, IMAGE));
    assert_eq!(answer.all("cache-control"), ["public, max-age=3600"]);
    assert_eq!(answer.all("content-type"), ["image/webp"]);
    assert_eq!(answer.all("content-disposition"), ["inline; filename=\"a.webp\""]);
    let asked = site.gate.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.target == path), "both asks carry the target as sent: {asked:?}");
    assert_eq!((asked[0].again.as_deref(), asked[1].again.as_deref()), (None, Some("1")));

    fs::remove_file(site.store().join("vanished.webp")).unwrap();
    let head = site.ask("HEAD", path, &[], "");
    assert_eq!((head.status, head.all("content-length")), (200, vec![IMAGE.len().to_string()]));
    assert_eq!(site.gate.asked().last().unwrap().method, "HEAD");
}

#[test]
fn a_second_miss_is_a_plain_404() {
    let site = Site::start(|_| {});
    let answer = site.get("/images/sig/42/gone/");
    assert_eq!(answer.status, 404);
    assert_eq!(site.gate.asked().len(), 2, "asked once more, and no more");
    for header in ["cache-control", "expires", "etag", "last-modified", "vary"] {
        assert!(answer.all(header).is_empty(), "{header} in {}", answer.head);
    }
    assert_eq!(answer.all("x-content-type-options"), ["nosniff"]);
}

#[test]
fn what_the_gate_says_the_second_time_counts() {
    let site = Site::start(|_| {});
    let answer = site.get("/images/sig/42/busy/");
    assert_eq!((answer.status, answer.body.as_slice()), (503, &b"busy\n"[..]));
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert_eq!(answer.all("retry-after"), ["1"]);
}

#[test]
fn refusals_pass_as_they_are() {
    let site = Site::start(|_| {});
    let answer = site.get("/images/sig/42/refused/");
    assert_eq!((answer.status, answer.body.as_slice()), (403, &b"refused\n"[..]));
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert!(answer.all("x-sendimage-cache-control").is_empty());
    assert!(answer.all("x-sendimage-vary").is_empty());
}

#[test]
fn a_picture_stands_in_for_one_that_is_refused() {
    const INSTEAD: &[u8] = b"<svg xmlns='http://www.w3.org/2000/svg'/>";
    /// The lines of the README's example.
    fn with_error_image(printed: String, directory: &Path) -> String {
        let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let (_, example) = readme.split_once("```nginx\nlocation ^~ /images/ {").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let (inside, beside) = example.split_once("\n}").unwrap();
        let public = "location ^~ /images/ {";
        let printed = printed.replacen("proxy_intercept_errors off;", "", 1);
        let with = format!("{}\n{public}{inside}", beside.replace("/srv/site/static", directory.to_str().unwrap()));
        printed.replacen(public, &with, 1)
    }
    let site = Site::start(|setup| setup.edit = with_error_image);
    fs::write(site.directory.path().join("no-image.svg"), INSTEAD).unwrap();
    let answer = site.get("/images/sig/42/refused/");
    assert_eq!((answer.status, answer.body.as_slice()), (403, INSTEAD), "the picture, and still no success");
    assert_eq!(answer.all("content-type"), ["image/svg+xml"]);
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert_eq!(site.get("/no-image.svg").status, 404);
    assert_eq!(site.get("/images/sig/42/hit/").body, IMAGE);
    // A rendition that has vanished is made again all the same.
    assert_eq!(site.get("/images/sig/42/vanished/").body, IMAGE);
}

#[test]
fn a_browser_cannot_ask_for_the_second_look() {
    let site = Site::start(|_| {});
    site.ask("GET", "/images/sig/42/hit/", &[("X-Sendimage-Again", "1")], "");
    assert_eq!(site.gate.asked()[0].again, None);
}

#[test]
fn cookies_and_passwords_stay_with_nginx() {
    let site = Site::start(|_| {});
    site.ask("GET", "/images/sig/42/hit/", &[("Cookie", "session=1"), ("Authorization", "Basic x")], "");
    let head = site.gate.asked()[0].head.to_ascii_lowercase();
    assert!(!head.contains("cookie") && !head.contains("authorization"), "{head}");
}

#[test]
fn nothing_but_the_gate_leads_to_the_files() {
    let site = Site::start(|_| {});
    fs::write(site.directory.path().join("secret.txt"), "secret").unwrap();
    symlink("../secret.txt", site.store().join("link.webp")).unwrap();
    symlink("..", site.store().join("up")).unwrap();
    for direct in ["/_renditions/hit.webp", "/images/..%2f_renditions/hit.webp", "/_renditions/../_renditions/hit.webp"]
    {
        assert_eq!(site.get(direct).status, 404, "{direct}");
    }
    for target in [
        "/_renditions/../secret.txt",
        "/_renditions../secret.txt",
        "/_renditions..%2fsecret.txt",
        "/_renditions/%2e%2e/secret.txt",
        "/_renditions/..%2fsecret.txt",
    ] {
        let answer = site.accel(target);
        assert_eq!(answer.status, 404, "{target}");
        assert!(answer.all("cache-control").is_empty(), "{target}: {}", answer.head);
    }
    for target in ["/_renditions/link.webp", "/_renditions/up/secret.txt"] {
        let answer = site.accel(target);
        assert!(matches!(answer.status, 403 | 404), "{target}: {}", answer.status);
        assert!(answer.all("cache-control").is_empty(), "{target}: {}", answer.head);
    }
}

#[test]
fn a_body_is_refused_or_dropped() {
    let site = Site::start(|_| {});
    let path = "/images/sig/42/hit/";
    let dropped = site.ask("GET", path, &[("Content-Length", "5")], "hello");
    assert_eq!((dropped.status, dropped.body.as_slice()), (200, IMAGE));
    let head = site.gate.asked()[0].head.to_ascii_lowercase();
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    let refused = site.ask("GET", path, &[("Content-Length", "2000")], &"x".repeat(2000));
    assert_eq!(refused.status, 413);
    assert_eq!(site.gate.asked().len(), 1);
}

#[test]
fn the_target_arrives_as_it_was_sent() {
    let site = Site::start(|_| {});
    for path in
        ["/images/sig/media/width-1%7Cformat-webp/caf%C3%A9%201.jpg", "/images/sig//a/./b%2Fc|d?expires=1&x=%20"]
    {
        site.get(path);
        assert_eq!(site.gate.asked().last().unwrap().target, path);
    }
}

#[test]
fn connections_to_the_gate_are_kept() {
    for unix in [true, false] {
        let site = Site::start(|setup| setup.unix = unix);
        for _ in 0..50 {
            assert_eq!(site.get("/images/sig/42/hit/").status, 200);
        }
        let connections = site.gate.connections();
        assert!(connections <= 2, "{connections} connections for 50 requests (unix: {unix})");
    }
}

#[test]
fn a_gate_that_is_down_is_a_502_at_once() {
    let site = Site::start(|setup| setup.gate_is_down = true);
    let started = Instant::now();
    assert_eq!(site.get("/images/sig/42/hit/").status, 502);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn redirects_find_the_published_files() {
    let site = Site::start(|setup| {
        setup.config.offload.mode = OffloadMode::Redirect;
        setup.config.offload.redirect_url = "/files/".into();
    });
    let answer = site.get("/images/sig/42/redirect/");
    assert_eq!((answer.status, answer.all("location")), (302, vec!["/files/hit.webp".to_owned()]));
    fs::write(site.store().join(".tmp-1.webp"), IMAGE).unwrap();
    let file = site.get("/files/hit.webp");
    assert_eq!((file.status, file.body.as_slice()), (200, IMAGE));
    assert_eq!(file.all("content-type"), ["image/webp"]);
    assert_eq!(file.all("cache-control"), ["public, max-age=3600"]);
    assert_eq!(file.all("content-security-policy"), ["default-src 'none'; sandbox"]);
    assert_eq!(file.all("x-content-type-options"), ["nosniff"]);
    for missing in ["/files/none.webp", "/files/.tmp-1.webp", "/files/../secret.txt", "/files../secret.txt"] {
        let answer = site.get(missing);
        assert!(matches!(answer.status, 400 | 404), "{missing}: {}", answer.status);
        assert!(answer.all("cache-control").is_empty());
    }
}

#[test]
fn nginx_takes_every_config_that_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let route = |prefix: &str, offload| RouteConfig { prefix: prefix.into(), offload, ..RouteConfig::default() };
    let mut config = Config::default();
    config.store.root = directory.path().join("a b'c\"d\\e;f{g}h#i/é");
    config.server.listen = ListenAddress::Unix(directory.path().join("s p;{}\"'\\.sock"));
    config.server.public_url = "https://[::1]:8443".into();
    config.offload.redirect_url = "/files/".into();
    config.headers.access_control_allow_origin = Some("https://a.example/\"x\" \\ ;}".into());
    let modes = [OffloadMode::Accel, OffloadMode::AuthRequest, OffloadMode::Redirect, OffloadMode::Direct];
    for (number, offload) in [None].into_iter().chain(modes.map(Some)).enumerate() {
        config.routes.insert(format!("r{number}"), route(&format!("/r{number}/"), offload));
        let asks = RouteConfig { auth: Some(AuthMode::Jwt), ..route(&format!("/a{number}/"), offload) };
        config.routes.insert(format!("a{number}"), asks);
    }
    // Tokens in URLs: a log of its own.
    config.auth.jwt.query = true;
    let listens = [None, Some("127.0.0.1:8088".to_owned()), Some("[::1]:8088".to_owned())];
    for listen in listens {
        for upstreams in [vec![], vec!["10.0.0.1:80".parse().unwrap(), "[fd00::1]:80".parse().unwrap()]] {
            let options = ProxyOptions {
                whole: true,
                listen: listen.clone(),
                upstreams,
                directory: Some(directory.path().join("run dir")),
                user: Some("root:root".into()),
            };
            fs::create_dir_all(directory.path().join("run dir")).unwrap();
            assert_nginx_takes(directory.path(), &proxy_conf(WebServer::Nginx, &config, &options).unwrap());
        }
    }
}

#[test]
fn a_folder_with_an_odd_name_is_served() {
    let site = Site::start(|setup| setup.store = "odd \"one\" {x}; \\y #z é".into());
    assert_eq!(site.get("/images/sig/42/hit/").body, IMAGE);
    symlink("../secret.txt", site.store().join("link.webp")).unwrap();
    assert!(matches!(site.accel("/_renditions/link.webp").status, 403 | 404));
}

#[test]
fn the_example_config_is_sound_and_its_nginx_config_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let loaded = load(Some(&root.join("deploy/sendimage.toml"))).unwrap();
    let printed = proxy_conf(WebServer::Nginx, &loaded.config, &ProxyOptions::default()).unwrap();
    let example = root.join("nginx.conf.example");
    if std::env::var_os("SENDIMAGE_UPDATE_EXAMPLES").is_some() {
        fs::write(&example, &printed).unwrap();
    }
    assert!(
        fs::read_to_string(&example).unwrap() == printed,
        "nginx.conf.example is out of date: run the tests once with SENDIMAGE_UPDATE_EXAMPLES=1"
    );
    let directory = tempfile::tempdir().unwrap();
    assert_nginx_takes(directory.path(), &format!("pid test.pid;\nevents {{}}\nhttp {{\n{TEMPORARY}{printed}}}\n"));
}

/// A commented-out key shows its default, or an example where the default is nothing. Both must load, and the former
/// change nothing.
#[test]
fn commented_keys_of_the_example_show_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("deploy/sendimage.toml")).unwrap();
    let example = load(Some(&root.join("deploy/sendimage.toml"))).unwrap().config;
    let directory = tempfile::tempdir().unwrap();
    let with = |lines: &[usize]| {
        let open: Vec<_> = text
            .lines()
            .enumerate()
            .map(|(number, line)| if lines.contains(&number) { line.trim_start_matches("# ") } else { line })
            .collect();
        let file = directory.path().join("sendimage.toml");
        fs::write(&file, open.join("\n")).unwrap();
        load(Some(&file)).map(|loaded| loaded.config)
    };
    let key_of = |line: &str| line.strip_prefix("# ")?.split_once(" = ").map(|(key, _)| key.to_owned());
    let is_key = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    // No default: these lines are examples, and change something.
    let examples = [
        "secret",
        "secret_file",
        "url",
        "url_file",
        "file",
        "source",
        "catalogue.query",
        "keys",
        "jwks_file",
        "jwks_url",
        "audience",
        "issuer",
        "cookie",
        "images",
        "host",
        "redirect_url",
        "access_control_allow_origin",
        "cross_origin_resource_policy",
        "existence_by_preset",
        "store.max_bytes",
        "max_files",
        "min_free",
        "min_free_inodes",
        "max_idle",
        "pinned",
        "index",
        "token",
        "token_file",
        "list_query",
        "search_query",
        "page.listen",
        "page.public_url",
        "password",
        "password_file",
        "endpoint",
    ];
    let mut seen = 0;
    let mut section = "";
    // A table that is commented out as a whole ends where one that is not begins.
    let mut in_table = false;
    for (number, line) in text.lines().enumerate() {
        in_table = line.starts_with("# [") || (in_table && !line.starts_with('['));
        section = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(section);
        let Some(key) = key_of(line).filter(|key| is_key(key) && !in_table) else { continue };
        seen += 1;
        let opened = with(&[number]);
        if (section, key.as_str()) == ("catalogue", "listen") {
            // Of one kind of catalogue alone, and not the one that is the default.
            assert!(opened.unwrap_err().to_string().contains("kind \"postgres\""));
            continue;
        }
        let mut config = opened.unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        // What a release of Wagtail decides is not set by default: the value shown is what it comes to.
        let release = RenderConfig::default();
        let render = &mut config.render;
        for (given, usual) in [
            (&mut render.jpeg_quality, release.effective_jpeg_quality()),
            (&mut render.webp_quality, release.effective_webp_quality()),
            (&mut render.avif_quality, release.effective_avif_quality()),
        ] {
            given.take_if(|given| *given == usual);
        }
        if render.effective_conversions() == release.effective_conversions() {
            render.format_conversions.clear();
        }
        let is_example = examples.iter().any(|example| *example == key || *example == format!("{section}.{key}"));
        assert_eq!(config == example, !is_example, "line {}: {line}", number + 1);
    }
    assert!(seen > 30, "{seen} commented keys");
    let table = |start: &str| {
        let mut lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with(start));
        let head = lines.next().unwrap().0;
        let inside = lines.take_while(|(_, line)| !line.starts_with('[') && !line.starts_with("# ["));
        let keys = inside.filter(|(_, line)| key_of(line).is_some_and(|key| is_key(&key))).map(|(number, _)| number);
        with(&[head].into_iter().chain(keys).collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(table("# [routes.").effective_routes()["public"].prefix, example.server.url_prefix);
    let marks = table("# [watermarks.").watermarks;
    let least: WatermarkConfig = serde_json::from_str(r#"{"file": "/etc/sendimage/logo.png"}"#).unwrap();
    assert_eq!(marks["logo"], least);
}

/// Every key that the config knows stands in its own section of the example: the structs' docs say which that is.
#[test]
fn the_example_names_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("deploy/sendimage.toml")).unwrap();
    // Its lines by section; what is commented out as a whole is one, too.
    let mut sections: Vec<(&str, Vec<&str>)> = vec![("", Vec::new())];
    for line in text.lines() {
        match line.trim_start_matches("# ").strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => sections.push((name, Vec::new())),
            None => sections.last_mut().unwrap().1.push(line),
        }
    }
    let is_named = |wanted: &str, name: &str| {
        let (wanted, name): (Vec<_>, Vec<_>) = (wanted.split('.').collect(), name.split('.').collect());
        wanted.len() == name.len() && wanted.iter().zip(&name).all(|(wanted, name)| *wanted == "NAME" || wanted == name)
    };
    let mut seen = 0;
    for file in fs::read_dir(root.join("src/config")).unwrap() {
        let source = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut docs = String::new();
        let (mut of, mut is_entry) = (Vec::new(), false);
        for line in source.lines() {
            if let Some(doc) = line.strip_prefix("/// ") {
                docs += doc;
            } else if line.starts_with("pub struct ") {
                // "`[sources.NAME.s3]` and `[store.s3]`: ...", "One entry of `signing.keys`. ...", or the whole.
                is_entry = docs.starts_with("One entry of `");
                of = docs
                    .split('`')
                    .filter_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
                    .map(str::to_owned)
                    .collect();
                if is_entry {
                    of = vec![docs.split('`').nth(1).unwrap().rsplit_once('.').unwrap().0.to_owned()];
                } else if line == "pub struct Config {" {
                    of = vec![String::new()];
                }
            } else if line.is_empty() || line == "}" {
                (docs, of) = Default::default();
            } else if let Some((key, _)) = line.strip_prefix("    pub ").and_then(|line| line.split_once(": ")) {
                let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
                if !is_key || of.is_empty() {
                    continue;
                }
                let is_spelled = of.iter().any(|of| {
                    let table = if of.is_empty() { key.to_owned() } else { format!("{of}.{key}") };
                    let of_names = format!("{table}.NAME");
                    sections.iter().any(|(name, lines)| {
                        let stands = |line: &&str| match is_entry || key == "secret_access_key" {
                            // Within a line, or in the sentence above it.
                            true => line.contains(key),
                            false => line.trim_start_matches("# ").starts_with(&format!("{key} = ")),
                        };
                        is_named(&table, name)
                            || is_named(&of_names, name)
                            || is_named(of, name) && lines.iter().any(stands)
                    })
                });
                assert!(is_spelled, "{key} of {of:?} is not in the example");
                seen += 1;
            }
        }
    }
    assert!(seen > 130, "{seen} keys");
}

fn nginx() -> Command {
    let mut command = Command::new("nginx");
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

/// `conf` names a pid file of its own, or nginx would want the system's.
fn assert_nginx_takes(directory: &Path, conf: &str) {
    let file = directory.join("nginx-test.conf");
    fs::write(&file, conf).unwrap();
    let output = nginx()
        .args(["-t", "-e", "stderr"])
        .args(["-p".as_ref(), directory.as_os_str(), "-c".as_ref(), file.as_os_str()])
        .output()
        .expect("nginx is installed: tests/run does that");
    assert!(output.status.success(), "{}\n{conf}", String::from_utf8_lossy(&output.stderr));
}

struct Setup {
    config: Config,
    store: String,
    unix: bool,
    gate_is_down: bool,
    /// What the site's own hand changes in the printed config; with the folder of everything.
    edit: fn(String, &Path) -> String,
}

/// nginx, the gate behind it, and the folder with everything of theirs.
struct Site {
    nginx: Child,
    port: u16,
    gate: Gate,
    config: Config,
    directory: tempfile::TempDir,
}

impl Site {
    fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut setup = Setup {
            config: Config::default(),
            store: "renditions".into(),
            unix: true,
            gate_is_down: false,
            edit: |text, _| text,
        };
        setup.config.headers.access_control_allow_origin = Some("https://app.example".into());
        setup.config.headers.cross_origin_resource_policy = Some("cross-origin".into());
        change(&mut setup);
        let mut config = setup.config;
        config.store.root = directory.path().join(&setup.store);
        fs::create_dir(&config.store.root).unwrap();
        fs::write(config.store.root.join("hit.webp"), IMAGE).unwrap();

        let gate = Gate::default();
        if setup.unix {
            let socket = directory.path().join("gate.sock");
            config.server.listen = ListenAddress::Unix(socket.clone());
            if !setup.gate_is_down {
                gate.listen_unix(UnixListener::bind(socket).unwrap(), config.store.root.clone());
            }
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            config.server.listen = ListenAddress::Tcp(listener.local_addr().unwrap());
            gate.listen_tcp(listener, config.store.root.clone());
        }
        // Another test may take the port between the look and nginx's bind; then another one is tried.
        for _ in 0..20 {
            let port = crate::harness::free_port();
            let options = ProxyOptions {
                whole: true,
                listen: Some(format!("127.0.0.1:{port}")),
                directory: Some(directory.path().to_owned()),
                // Read only where the tests run as root: the workers must enter the folders of this process.
                user: Some("root".into()),
                ..ProxyOptions::default()
            };
            let file = directory.path().join("nginx.conf");
            let printed = proxy_conf(WebServer::Nginx, &config, &options).unwrap();
            fs::write(&file, (setup.edit)(printed, directory.path())).unwrap();
            let mut nginx = nginx()
                .args(["-e", "stderr", "-g", "daemon off;"])
                .args(["-p".as_ref(), directory.path().as_os_str(), "-c".as_ref(), file.as_os_str()])
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx is installed: tests/run does that");
            if comes_up(&mut nginx, port) {
                return Self { nginx, port, gate, config, directory };
            }
        }
        let log = fs::read_to_string(directory.path().join("error.log")).unwrap_or_default();
        panic!("nginx does not start: {log}");
    }

    fn store(&self) -> &Path {
        &self.config.store.root
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], "")
    }

    /// What nginx makes of an `X-Accel-Redirect` to `target`.
    fn accel(&self, target: &str) -> Answer {
        self.ask("GET", "/images/sig/42/accel/", &[("X-Test-Accel", target)], "")
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        // A refused body may close the connection before it is all written.
        let _ = stream.write_all((request + "\r\n" + body).as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // SIGTERM, so that the master takes its workers along.
        let id = rustix::process::Pid::from_child(&self.nginx);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.nginx.wait();
    }
}

fn comes_up(nginx: &mut Child, port: u16) -> bool {
    for _ in 0..500 {
        if nginx.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            // A foreign server on that port would answer too, while nginx fails to bind.
            thread::sleep(Duration::from_millis(20));
            return nginx.try_wait().unwrap().is_none();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = nginx.kill();
    let _ = nginx.wait();
    false
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect()
    }
}

/// Stands in for sendimage: answers as it does, and remembers what it was asked.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    connections: usize,
    asked: Vec<Asked>,
}

#[derive(Clone, Debug)]
struct Asked {
    method: String,
    target: String,
    again: Option<String>,
    head: String,
}

impl Gate {
    fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().asked.clone()
    }

    fn connections(&self) -> usize {
        self.0.lock().unwrap().connections
    }

    fn listen_unix(&self, listener: UnixListener, store: PathBuf) {
        let gate = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let reader: UnixStream = stream.try_clone().unwrap();
                gate.serve(BufReader::new(reader), stream, &store);
            }
        });
    }

    fn listen_tcp(&self, listener: TcpListener, store: PathBuf) {
        let gate = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let reader = stream.try_clone().unwrap();
                gate.serve(BufReader::new(reader), stream, &store);
            }
        });
    }

    fn serve<R: Read + Send + 'static, W: Write + Send + 'static>(
        &self,
        mut reader: BufReader<R>,
        mut writer: W,
        store: &Path,
    ) {
        self.0.lock().unwrap().connections += 1;
        let (gate, store) = (self.clone(), store.to_owned());
        thread::spawn(move || {
            while let Some(asked) = read_head(&mut reader) {
                gate.0.lock().unwrap().asked.push(asked.clone());
                if writer.write_all(answer(&asked, &store).as_bytes()).is_err() {
                    return;
                }
            }
        });
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let again = header(&head, "x-sendimage-again");
    Some(Asked { method, target, again, head })
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
}

/// The fourth part of the path says what happens.
fn answer(asked: &Asked, store: &Path) -> String {
    // nginx keeps the first answer's Content-Disposition, so the second one says none.
    let disposition = match asked.again {
        None => "Content-Disposition: inline; filename=\"a.webp\"\r\n",
        Some(_) => "",
    };
    let accel = |target: &str, vary: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Accel-Redirect: {target}\r\nContent-Type: image/webp\r\n\
             {disposition}X-Sendimage-Cache-Control: public, max-age=3600\r\nX-Request-Id: 7\r\n{vary}\r\n"
        )
    };
    let vary = "X-Sendimage-Vary: Accept\r\n";
    let plain = |status: &str, headers: &str, body: &str| {
        let body = if asked.method == "HEAD" { "" } else { body };
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    };
    let refusal = "Cache-Control: no-store\r\nX-Sendimage-Cache-Control: x\r\nX-Sendimage-Vary: x\r\n";
    match asked.target.split('/').nth(4) {
        Some("hit") => accel("/_renditions/hit.webp", vary),
        Some("plain") => accel("/_renditions/hit.webp", ""),
        Some("accel") => accel(&header(&asked.head, "x-test-accel").unwrap(), ""),
        Some("gone") => accel("/_renditions/gone.webp", vary),
        Some("vanished") => {
            if asked.again.is_some() {
                fs::write(store.join("vanished.webp"), IMAGE).unwrap();
            }
            accel("/_renditions/vanished.webp", vary)
        }
        Some("busy") if asked.again.is_some() => {
            plain("503 Service Unavailable", "Retry-After: 1\r\nCache-Control: no-store\r\n", "busy\n")
        }
        Some("busy") => accel("/_renditions/gone.webp", vary),
        Some("refused") => plain("403 Forbidden", refusal, "refused\n"),
        Some("redirect") => plain("302 Found", "Location: /files/hit.webp\r\n", ""),
        _ => plain("404 Not Found", "", "no route\n"),
    }
}
