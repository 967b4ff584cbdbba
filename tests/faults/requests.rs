//! Requests in every shape but the right one: to the gate's own socket, and through a real nginx.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    client::{Client, path_url},
    harness::{KEY, Response, Site},
    report::Row,
    tools::{random, scale},
};

const KEYS: &[u8] = KEY.as_bytes();

/// What no answer may ever hold: paths, names of what it is made of, and the words of a failing program.
pub fn assert_tells_nothing<'a>(texts: impl Iterator<Item = &'a str>) {
    let words = "panicked|RUST|.rs|src/|/tmp|/work|/home|/proc|hyper|tokio|sqlx|sqlite|image::|os error|errno|\
        unwrap|thread '|libc|zune|turbojpeg|renditions|media/";
    for text in texts {
        for word in words.split('|') {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

/// FAULTS 2.2, row by row: what is sent, what the gate says, and what nginx says where it has a word of its own.
#[test]
fn the_canonicalisation_table() {
    let row = Row::begin("the canonicalisation table", "T03");
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "é+1.jpg");
    let url = path_url(KEYS, "é+1.jpg", "width-50|format-webp");
    let swapped = |from: &str, to: &str| {
        assert!(url.contains(from), "{url} has no {from}");
        url.replace(from, to).into_bytes()
    };
    let raw = |from: &str, to: &[u8]| {
        let at = url.find(from).unwrap();
        [&url.as_bytes()[..at], to, &url.as_bytes()[at + from.len()..]].concat()
    };
    let absolute = |host: &str| format!("http://{host}{url}").into_bytes();
    // Sent, the gate's answer, nginx's.
    let table: Vec<(Vec<u8>, u16, u16)> = vec![
        (url.clone().into(), 200, 200),
        (swapped("/media/", "/media%2F"), 400, 400),
        (swapped("/media/", "/media%2f"), 400, 400),
        (swapped("/media/", "/media//"), 400, 400),
        (swapped("/images/", "//images/"), 400, 400),
        (swapped("/images/", "/images//"), 400, 400),
        (swapped("/media/", "/media/./"), 400, 400),
        (swapped("/media/", "/x/../media/"), 400, 400),
        (swapped("/media/", "/x/%2e%2e/media/"), 400, 400),
        (swapped("/media/", "/x/.%2E/media/"), 400, 400),
        (swapped("/media/", "/x/..%2fmedia/"), 400, 400),
        // Above the root, nginx refuses by itself; another location takes what leads elsewhere.
        (swapped("/images/", "/..%2f..%2fimages/"), 400, 400),
        (swapped("/images/", "/images/..%2f..%2fetc/"), 400, 400),
        (swapped("/images/", "/pub/..%2fimages/"), 400, 400),
        (swapped("/images/", "/images/..%2fpub/"), 400, 404),
        (swapped(".jpg", "%00.jpg"), 400, 400),
        (swapped(".jpg", "%"), 400, 400),
        (swapped(".jpg", "%2"), 400, 400),
        (swapped(".jpg", "%zz"), 400, 400),
        (swapped(".jpg", "%0d%0aX:1"), 400, 400),
        (swapped(".jpg", "%0a.jpg"), 400, 400),
        (swapped(".jpg", "%7f.jpg"), 400, 400),
        (swapped(".jpg", "%C2%85.jpg"), 400, 400),
        (swapped("%7C", "|"), 200, 200),
        (swapped("%7C", "%7c"), 200, 200),
        (swapped("width", "%77idth"), 200, 200),
        (swapped("%C3%A9+", "%C3%A9%20"), 403, 403),
        (swapped("%C3%A9+", "%C3%A9%2B"), 200, 200),
        (swapped("%C3%A9", "é"), 200, 200),
        (swapped("%C3%A9", "e%CC%81"), 403, 403),
        (swapped("%C3%A9", "%E9"), 400, 400),
        (raw("%C3%A9", b"\xE9"), 400, 400),
        (raw("%C3%A9", b"\xFF"), 400, 400),
        (swapped("%C3%A9", "%25C3%25A9"), 403, 403),
        (swapped("%7C", "%257C"), 403, 403),
        (swapped(".jpg", "%252Fb.jpg"), 403, 403),
        (swapped("width", "%2577idth"), 403, 403),
        (format!("{url}?b=1#f").into(), 400, 400),
        (format!("{url}#c").into(), 200, 200),
        (format!("{url}?").into(), 200, 200),
        (swapped("é+1".replace('é', "%C3%A9").as_str(), "<a>"), 400, 400),
        (swapped(".jpg", "`.jpg"), 400, 400),
        (swapped(".jpg", " .jpg"), 400, 400),
        (swapped(".jpg", "\t.jpg"), 400, 400),
        (swapped(".jpg", "\u{7f}.jpg"), 400, 400),
        (swapped("width-50", "\"a\""), 403, 403),
        (swapped("width-50", "a\\b"), 403, 403),
        (swapped("width-50", "a^b"), 403, 403),
        (swapped("width-50", "{}"), 403, 403),
        (swapped("width-50", "[]"), 403, 403),
        (absolute("evil"), 400, 200),
        (b"*".to_vec(), 400, 400),
        (b"localhost:80".to_vec(), 400, 400),
        (swapped("/images/", "/%69mages/"), 404, 404),
        (swapped("/images/", "/IMAGES/"), 404, 404),
        (swapped("/images/", "/images;a/"), 404, 404),
        (swapped("/media/", "/media;a/"), 403, 403),
        (swapped("/media/", "\\media\\"), 404, 404),
    ];
    let mut wrong = Vec::new();
    for (target, wanted, wanted_of_nginx) in &table {
        for (door, wanted) in [("gate", *wanted), ("nginx", *wanted_of_nginx)] {
            let mut client = if door == "gate" { Client::gate(&site) } else { Client::nginx(&site) };
            let response = client.get(target);
            if response.status != wanted {
                wrong.push(format!("{door}: {} for {wanted}: {}", response.status, String::from_utf8_lossy(target)));
            }
            if response.status != 200 {
                let text = response.text();
                assert_tells_nothing([text.replace("nginx", "").as_str()].into_iter());
            }
        }
    }
    // What the grammar refuses is 400 once it is signed.
    for spec in
        ["\"a\"", "a\\b", "a^b", "{}", "[]", "<a>", "a%b", "a%2Fb", "a b", "width-50|", "|", "width-50||original"]
    {
        let signed = path_url(KEYS, "é+1.jpg", spec);
        let response = Client::gate(&site).get(signed.as_bytes());
        if response.status != 400 {
            wrong.push(format!("signed {spec}: {}", response.status));
        }
        assert!(!response.text().contains(spec), "the text is echoed: {}", response.text());
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.log());
    assert_eq!(site.stored().len(), 1);
    row.passed(&format!("{} rows, each at both doors; 12 signed specs that are none; 1 file", table.len()));
}

/// The internal location, asked for from outside in every spelling: nginx serves it to nobody.
#[test]
fn the_internal_location_is_nobodys() {
    let row = Row::begin("the internal location is nobody's", "T26");
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let url = path_url(KEYS, "a.jpg", "width-50");
    let accel = site.gate("GET", &url, "").header("x-accel-redirect").unwrap();
    let image = site.nginx("GET", &url, "").body;
    assert!(image.starts_with(b"\xFF\xD8"));
    std::fs::write(site.path("secret.txt"), "a canary outside of the store").unwrap();
    let below = accel.strip_prefix("/_renditions/").unwrap();
    let mut targets: Vec<String> = vec![
        accel.clone(),
        format!("{accel}?x=1"),
        format!("{accel}#x"),
        format!("/{accel}"),
        format!("//localhost{accel}"),
        accel.replace("/_renditions/", "/_renditions//"),
        accel.replace("/_renditions/", "/./_renditions/"),
        accel.replace("/_renditions/", "/images/../_renditions/"),
        accel.replace("/_renditions/", "/images/..%2f_renditions/"),
        accel.replace("/_renditions/", "/images/%2e%2e/_renditions/"),
        accel.replace("/_renditions/", "/%5frenditions/"),
        accel.replace("/_renditions/", "/_renditions%2f"),
        accel.replace("/_renditions/", "/_RENDITIONS/"),
        accel.replace("/_renditions/", "/_renditions;/"),
        accel.replace("/_renditions/", "/_renditions%00/"),
        accel.replace("/_renditions/", "/_renditions\\"),
        accel.replace("/_renditions/", "/x/../_renditions/"),
        format!("http://localhost{accel}"),
        format!("/images/x/42/y/..%2f..%2f..%2f..%2f_renditions/{below}"),
        "/_renditions".into(),
        "/_renditions/".into(),
        "/_renditions/../secret.txt".into(),
        "/_renditions../secret.txt".into(),
        "/_renditions%2e%2e/secret.txt".into(),
        "/_renditions/..%2fsecret.txt".into(),
        "/_renditions/%2e%2e/secret.txt".into(),
        "/_renditionssecret.txt".into(),
        "/_renditions/..%252fsecret.txt".into(),
        format!("/renditions/{below}"),
        format!("/{below}"),
        "/@again".into(),
        "/_verdict".into(),
        "/metrics".into(),
        "/health/ready".into(),
        "/purge".into(),
        "/warm".into(),
        "/sign".into(),
    ];
    let mut random = random("the internal location is nobody's");
    for _ in 0..scale(300, 10_000) {
        let mut target = accel.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(1..target.len());
            let put: &[u8] =
                random.choice(&[&b"/"[..], b"./", b"../", b"%2f", b"%2e%2e/", b"//", b"%00", b";"]).unwrap();
            if random.bool() {
                let byte = target[at];
                target.splice(at..=at, format!("%{byte:02x}").bytes());
            } else {
                target.splice(at..at, put.iter().copied());
            }
        }
        targets.push(String::from_utf8(target).unwrap());
    }
    let lines = [
        "",
        "X-Accel-Redirect: /_renditions/x\r\n",
        "X-Original-URI: /images/x\r\n",
        "X-Rewrite-URL: /_renditions/x\r\n",
        "X-Sendimage-Again: 1\r\n",
        "X-Sendfile: /etc/passwd\r\n",
    ];
    let mut told = BTreeMap::<u16, usize>::new();
    let mut nginx = Client::nginx(&site);
    for (number, target) in targets.iter().enumerate() {
        for headers in if number < 40 { &lines[..] } else { &lines[..1] } {
            for method in if number < 40 { &["GET", "HEAD", "POST", "PUT", "PROPFIND"][..] } else { &["GET"] } {
                let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
                let response = nginx.ask(request.as_bytes());
                assert!(matches!(response.status, 400 | 403 | 404 | 405), "{}: {method} {target}", response.status);
                assert!(response.body != image && !response.text().contains("canary"), "{method} {target}");
                *told.entry(response.status).or_default() += 1;
            }
        }
    }
    // The operations listener's paths are none of the public one's, at either door.
    for path in
        ["/metrics", "/health/live", "/health/ready", "/purge", "/warm", "/sign", "/_verdict", "/debug/pprof", "/"]
    {
        for response in [site.gate("GET", path, ""), site.nginx("GET", path, "")] {
            assert_eq!(response.status, 404, "{path}");
        }
    }
    row.passed(&format!(
        "{} requests in {} spellings: {told:?}; no byte of a rendition, none from outside of the store",
        told.values().sum::<usize>(),
        targets.len()
    ));
}

/// T21: the answer is decided by the URL alone.
#[test]
fn headers_have_no_say() {
    let row = Row::begin("headers have no say", "T21");
    let site = Site::new("[log]\nlevel = \"error\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let hit = path_url(KEYS, "a.jpg", "width-50");
    let auto = path_url(KEYS, "a.jpg", "width-60|format-auto");
    let targets = [
        hit.clone(),
        hit.replace("width-50", "width-51"),
        path_url(KEYS, "none.jpg", "width-50"),
        path_url(KEYS, "a.jpg", "width-"),
        "/".into(),
        auto,
    ];
    let names: Vec<&str> =
        "Host X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Prefix X-Forwarded-Port \
        Forwarded X-Original-URL X-Original-URI X-Rewrite-URL X-HTTP-Method-Override \
        X-Method-Override X-Host X-Real-IP Via Cookie Authorization Proxy-Authorization Origin \
        Referer User-Agent Accept-Language Accept-Encoding Accept-Charset Range If-None-Match \
        If-Modified-Since If-Range If-Match If-Unmodified-Since Cache-Control Pragma DNT Save-Data \
        DPR Width Viewport-Width Sec-Fetch-Dest Sec-CH-DPR X-Accel-Redirect X-Accel-Internal \
        X-Sendfile X-Sendfile-Type X-Accel-Mapping X-Sendimage-Cache-Control X-Sendimage-Path \
        Content-Type Content-Encoding Content-Disposition Surrogate-Capability X-Request-Deadline \
        Max-Forwards From TE Trailer Priority X-Wap-Profile Last-Event-ID X-Http-Destinationurl \
        Base-Url Proxy X-Amz-Website-Redirect-Location"
            .split(' ')
            .collect();
    let values: Vec<&str> =
        "evil.example|127.0.0.1|http|https|/images/x/42/width-1/|bytes=0-3|\"x\"|*|no-cache|1|0|-1|\
        Sun, 06 Nov 1994 08:49:37 GMT|gzip, br|image/png|a=b; c=d|Bearer x|../../etc/passwd|\
        '; DROP TABLE x; --|${jndi:ldap://x}|%0d%0aX: 1|<script>"
            .split('|')
            .collect();
    let plain = |response: Response| {
        let mut response = response;
        response.headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
        response
    };
    let mut gate = Client::gate(&site);
    let mut ask =
        |target: &str, headers: &str| plain(gate.ask(format!("GET {target} HTTP/1.1\r\n{headers}\r\n").as_bytes()));
    let hosted = "Host: localhost\r\n";
    // Twice: the first renders, and is a miss.
    let wanted: Vec<Response> = targets.iter().map(|target| (ask(target, hosted), ask(target, hosted)).1).collect();
    let statuses: Vec<u16> = wanted.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 403, 404, 400, 404, 200], "{}", site.log());
    let mut random = random("headers have no say");
    let count = scale(1_500, 30_000);
    for _ in 0..count {
        let mut headers = String::new();
        for _ in 0..random.usize(1..12) {
            let name = *random.choice(&names).unwrap();
            let mut value = (*random.choice(&values).unwrap()).to_owned();
            if random.u8(..) < 40 {
                value = (0..random.usize(0..200)).map(|_| char::from(random.u8(0x20..0x7F))).collect();
            }
            let name = if random.bool() { name.to_lowercase() } else { name.to_owned() };
            headers += &format!("{name}: {value}\r\n");
        }
        let number = random.usize(0..targets.len());
        let answer = ask(&targets[number], &headers);
        assert_eq!(answer, wanted[number], "{} with\n{headers}", targets[number]);
    }
    // And Accept has a say only where the spec leaves the format open: one of three answers, told apart by Vary.
    let mut told = BTreeSet::new();
    for _ in 0..scale(200, 5_000) {
        let kinds = [
            "image/avif",
            "image/webp",
            "image/*",
            "*/*",
            "text/html",
            "image/avif;q=0",
            "image/webp;q=0.5",
            "",
            "image/png",
            ";;,",
            "\"image/webp",
        ];
        let accept: Vec<&str> = (0..random.usize(0..6)).map(|_| *random.choice(&kinds).unwrap()).collect();
        let headers = format!("{hosted}Accept: {}\r\n", accept.join(","));
        assert_eq!(ask(&targets[0], &headers), wanted[0], "{headers}");
        let answer = ask(&targets[5], &headers);
        assert_eq!((answer.status, answer.header("x-sendimage-vary").as_deref()), (200, Some("Accept")), "{headers}");
        told.insert(answer.header("content-type").unwrap());
    }
    assert!(told.len() <= 3, "{told:?}");
    assert!(site.stored().len() <= 4, "{:?}", site.stored());
    row.passed(&format!(
        "{count} random sets of headers on 6 URLs: 6 answers, byte for byte; formats by Accept {told:?}"
    ));
}
