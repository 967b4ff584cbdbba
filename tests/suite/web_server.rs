//! A real nginx that serves a folder: a web site with originals.

use std::{
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
    time::Duration,
};

use crate::harness::{free_port, system_path, wait_for};

pub struct WebServer {
    child: Option<Child>,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl WebServer {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let (port, dir) = (free_port(), folder.path().display().to_string());
        let conf = format!(
            "worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; events {{}}\n\
             http {{ log_format l '$status $request_uri'; access_log {dir}/access.log l;\n\
             types {{ image/jpeg jpg; image/bmp bmp; text/html html; }}\n\
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4;\n\
             scgi_temp_path {dir}/t5; server {{ listen 127.0.0.1:{port}; gzip on; gzip_types *; root {dir}/files; }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
        let mut server = Self { child: None, port, folder };
        server.run();
        server
    }

    /// Runs, or runs again.
    pub fn run(&mut self) {
        let child = Command::new("nginx")
            .env("PATH", system_path())
            .args(["-g", "daemon off;", "-e", "stderr", "-c"])
            .arg(self.folder.path().join("nginx.conf"))
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        self.child = Some(child);
        let port = self.port;
        wait_for(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok()).expect("nginx is up");
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }

    /// Puts a file in place: beside it, then by a rename.
    pub fn put(&self, bytes: &[u8], name: &str) {
        let path = self.folder.path().join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, bytes).unwrap();
        // Its workers may run as another user.
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("files").join(name)).unwrap();
    }

    /// Status and target of each request so far.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop();
    }
}
