//! A hub on loopback: the endpoints that a download asks, with faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ring::digest::{digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub holds of its one model, and how it behaves.
#[derive(Clone, Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Ends the connections of a file behind so many of its bytes, this many times; then it goes on.
    pub cut: Option<(String, usize, usize)>,
    /// Files whose bytes come changed.
    pub spoilt: Vec<String>,
    /// Sends files from their beginning, whatever is asked for.
    pub whole: bool,
    /// Answers this to so many requests first.
    pub busy: usize,
    /// The token without which nothing is given.
    pub token: Option<String>,
    /// Requests so far: method, path, range, token.
    pub log: Vec<String>,
}

pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves `org/demo` until the test ends.
    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Server {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, elsewhere] = [&hub, &cdn].map(|l| format!("http://{}", l.local_addr().unwrap()));
        let state = Arc::new(Mutex::new(State { files, ..Default::default() }));
        for listener in [hub, cdn] {
            let (shared, elsewhere) = (state.clone(), elsewhere.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (shared, elsewhere) = (shared.clone(), elsewhere.clone());
                    // A client that hangs up is not the server's fault.
                    std::thread::spawn(move || drop(answer(stream, &shared, &elsewhere)));
                }
            });
        }
        Server { address, state }
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// The hash that the hub lists for a file.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        return hex(digest(&SHA256, bytes).as_ref());
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn answer(mut stream: TcpStream, shared: &Mutex<State>, elsewhere: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut range, mut token) = (String::new(), None, None);
    reader.read_line(&mut line)?;
    let (method, path) = match line.split(' ').collect::<Vec<_>>().as_slice() {
        [method, path, _] => (method.to_string(), path.to_string()),
        _ => return Ok(()),
    };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                range = value.trim_start_matches("bytes=").strip_suffix('-').and_then(|n| n.parse::<usize>().ok())
            }
            "authorization" => token = value.strip_prefix("Bearer ").map(String::from),
            _ => {}
        }
    }
    let mut state = shared.lock().unwrap();
    let shown = |text: Option<String>| text.map(|t| format!(" {t}")).unwrap_or_default();
    let from = range.map(|n| format!("from {n}"));
    state.log.push(format!("{method} {path}{}{}", shown(from), shown(token.clone())));
    let mut say = |status: &str, headers: &[String], body: &[u8]| -> std::io::Result<()> {
        let length = if headers.iter().any(|h| h.starts_with("Content-Length")) { None } else { Some(body.len()) };
        let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        length.iter().for_each(|n| head += &format!("Content-Length: {n}\r\n"));
        headers.iter().for_each(|h| head += &format!("{h}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if method != "HEAD" {
            stream.write_all(body)?;
        }
        stream.flush()
    };
    if state.busy > 0 {
        state.busy -= 1;
        return say("503 Service Unavailable", &[], b"");
    }
    if let Some(name) = path.strip_prefix("/cdn/") {
        let bytes = sent(&state, name);
        let from = range.filter(|_| !state.whole).unwrap_or(0);
        if from >= bytes.len() {
            return say("416 Range Not Satisfiable", &[], b"");
        }
        let total = bytes.len();
        let mut rest = &bytes[from..];
        let mut headers = vec![format!("Content-Length: {}", rest.len())];
        if let Some((cut, end, times)) = state.cut.as_mut().filter(|(_, _, times)| *times > 0) {
            if cut == name {
                *times -= 1;
                rest = &rest[..end.saturating_sub(from).min(rest.len())];
            }
        }
        let status = if range.is_some() && !state.whole { "206 Partial Content" } else { "200 OK" };
        headers.push(format!("Content-Range: bytes {from}-{}/{total}", total - 1));
        return say(status, &headers, rest);
    }
    if state.token.is_some() && state.token != token {
        return say("401 Unauthorized", &["X-Error-Code: RepoNotFound".into()], b"Invalid username or password.");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/demo/revision/") {
        if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return say("404 Not Found", &["X-Error-Code: RevisionNotFound".into()], b"");
        }
        let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({"id": "org/demo", "sha": COMMIT, "siblings": siblings}).to_string();
        return say("200 OK", &["Content-Type: application/json".into()], body.as_bytes());
    }
    if path.starts_with("/api/models/org/gated") {
        return say("403 Forbidden", &["X-Error-Code: GatedRepo".into()], b"");
    }
    let inner = path.strip_prefix("/api/resolve-cache/");
    let named = path.strip_prefix(&format!("/org/demo/resolve/{COMMIT}/")).or(inner);
    let Some((name, bytes)) = named.and_then(|name| Some((name, state.files.get(name)?))) else {
        return say("404 Not Found", &["X-Error-Code: RepoNotFound".into()], b"");
    };
    let mut headers = vec![format!("X-Repo-Commit: {COMMIT}")];
    if is_large(name) {
        headers.push(format!("X-Linked-Etag: \"{}\"", etag(name, bytes)));
        headers.push(format!("X-Linked-Size: {}", bytes.len()));
        // Another place, if by its port alone: it must not be told the token.
        headers.push(format!("Location: {elsewhere}/cdn/{name}"));
        return say("302 Found", &headers, b"moved");
    }
    // Small files lie behind a redirect within the hub, as they do there.
    if inner.is_none() && name == "config.json" {
        headers.push(format!("Location: /api/resolve-cache/{name}"));
        return say("307 Temporary Redirect", &headers, b"moved");
    }
    headers.push(format!("ETag: W/\"{}\"", etag(name, bytes)));
    say("200 OK", &headers, &sent(&state, name))
}

/// A file as it is sent.
fn sent(state: &State, name: &str) -> Vec<u8> {
    let mut bytes = state.files.get(name).cloned().unwrap_or_default();
    if state.spoilt.iter().any(|spoilt| spoilt == name) {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
    bytes
}
