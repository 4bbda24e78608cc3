//! The hub's endpoints: what a revision holds, what is known of a file, a file's bytes from anywhere on.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode, Uri};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::name::{is_commit, is_hex, ModelName};
use crate::error::{Error, Result};

/// The hub itself.
pub(super) const ENDPOINT: &str = "https://huggingface.co";
/// Longest wait for a connection, and for the next bytes on one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries in a row that bring nothing before the last one's error is told.
const TRIES: u32 = 4;
/// Wait behind the first of these; it doubles.
const PAUSE: Duration = Duration::from_millis(300);
/// Most bytes of a list of files.
const LISTING: u64 = 64 << 20;
/// Most redirects of a request.
const HOPS: usize = 5;

/// The hub, or a mirror of it.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// Why a request came to nothing.
pub(super) enum Fault {
    /// Another try may bring it.
    Passing(Error),
    Final(Error),
}

/// What a revision holds.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(super) struct HubFile {
    pub name: String,
    /// Of a large file the SHA-256 of its content, else git's SHA-1 of it; the blob's name in a cache.
    pub etag: String,
    pub bytes: u64,
}

type Answer<T> = std::result::Result<T, Fault>;

pub(super) fn refused(url: &str, reason: impl Into<String>) -> Error {
    Error::Download { url: url.into(), reason: reason.into() }
}

/// Tries again what failed in passing, `tries` counting those that brought nothing.
pub(super) fn again(fault: Fault, tries: &mut u32) -> Result<()> {
    match fault {
        Fault::Final(e) => Err(e),
        Fault::Passing(e) if *tries + 1 >= TRIES => Err(e),
        Fault::Passing(e) => {
            log::info!("{e}; trying again");
            std::thread::sleep(PAUSE * (1 << *tries));
            *tries += 1;
            Ok(())
        }
    }
}

impl Client {
    /// A client of `endpoint`, which alone is told the token.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Client> {
        let endpoint = endpoint.trim_end_matches('/').to_string();
        let uri: Uri = endpoint.parse().map_err(|e| refused(&endpoint, format!("no address of a hub: {e}")))?;
        let host = uri.host().unwrap_or_default();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused(&endpoint, "no address of a hub: expected https://…")),
        };
        let loopback = host == "localhost" || host.starts_with("127.") || host == "[::1]";
        if !secure && !loopback && token.is_some() {
            return Err(refused(&endpoint, "an access token is sent over https only"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // See `follow`.
            .max_redirects(0)
            .user_agent(concat!("sftmix/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        if loopback {
            // No proxy leads back to this machine.
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().new_agent(), endpoint, token })
    }

    /// The commit of a name's revision, and its files.
    pub fn list(&self, name: &ModelName) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Said {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, name.repo, escaped(name.revision(), false));
        self.patiently(|| {
            let mut answer = self.get(&url, None)?;
            let body = answer.body_mut().with_config().limit(LISTING).read_to_vec().map_err(|e| fault(&url, e))?;
            let said: Said = serde_json::from_slice(&body)
                .map_err(|e| Fault::Final(refused(&url, format!("no list of a model's files: {e}"))))?;
            if !is_commit(&said.sha) {
                return Err(Fault::Final(refused(&url, format!("{:?} is no commit", said.sha))));
            }
            Ok(Listing { commit: said.sha, files: said.siblings.into_iter().map(|s| s.rfilename).collect() })
        })
    }

    /// What is known of a file. Redirects within the hub are followed; one that leads out of it says enough itself.
    pub fn about(&self, repo: &str, commit: &str, name: &str) -> Result<HubFile> {
        self.patiently(|| {
            let url = self.place(repo, commit, name);
            let answer = self.follow(&url, false, |url| self.agent.head(url))?;
            if !answer.status().is_redirection() {
                check(&url, &answer)?;
            }
            self.facts(&url, commit, name, &answer).map_err(Fault::Final)
        })
    }

    fn facts(&self, url: &str, commit: &str, name: &str, answer: &Response<Body>) -> Result<HubFile> {
        if let Some(other) = header(answer, "x-repo-commit").filter(|other| *other != commit) {
            return Err(refused(url, format!("it is of commit {other}, and {commit} was asked for")));
        }
        let inside = !answer.status().is_redirection();
        let bytes = header(answer, "x-linked-size").or_else(|| header(answer, "content-length").filter(|_| inside));
        let bytes =
            bytes.and_then(|b| b.parse().ok()).ok_or_else(|| refused(url, "the server does not say its size"))?;
        let etag = header(answer, "x-linked-etag").or_else(|| header(answer, "etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if !(is_hex(etag) && (etag.len() == 40 || etag.len() == 64)) {
            return Err(refused(url, format!("the server gives no hash of it but the etag {etag:?}")));
        }
        Ok(HubFile { name: name.into(), etag: etag.into(), bytes })
    }

    /// A file's bytes from `from` on; those before it too where the server cannot leave them out, which the number says.
    pub fn read(&self, repo: &str, commit: &str, file: &HubFile, from: u64) -> Answer<(u64, impl Read)> {
        let url = self.place(repo, commit, &file.name);
        let mut answer = self.get(&url, (from > 0).then_some(from))?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            answer = self.get(&url, None)?;
        }
        let begins = format!("bytes {from}-");
        let at = match answer.status() {
            StatusCode::PARTIAL_CONTENT if header(&answer, "content-range").is_some_and(|r| r.starts_with(&begins)) => {
                from
            }
            StatusCode::PARTIAL_CONTENT => {
                return Err(Fault::Final(refused(&url, "it sends another part than was asked for")))
            }
            _ => 0,
        };
        Ok((at, answer.into_body().into_reader()))
    }

    /// Where a file of a commit lies.
    pub fn place(&self, repo: &str, commit: &str, name: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, escaped(name, true))
    }

    fn get(&self, url: &str, from: Option<u64>) -> Answer<Response<Body>> {
        let answer = self.follow(url, true, |url| match from {
            Some(from) => self.agent.get(url).header("range", format!("bytes={from}-")),
            None => self.agent.get(url),
        })?;
        if from.is_none() || answer.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            check(url, &answer)?;
        }
        Ok(answer)
    }

    /// What an address, or the one that it leads to, answers; where it leads out of the hub and `out` does not say to
    /// follow, that it does. The token is told to the hub, by its scheme, host and port, and to nobody that it sends us to.
    fn follow(
        &self,
        url: &str,
        out: bool,
        ask: impl Fn(&str) -> RequestBuilder<WithoutBody>,
    ) -> Answer<Response<Body>> {
        let mut at = url.to_string();
        for _ in 0..HOPS {
            let mut request = ask(&at);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_inside(&at)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|e| fault(url, e))?;
            let to = header(&answer, "location").filter(|_| answer.status().is_redirection());
            match to.and_then(|to| target(&at, to)) {
                Some(to) if out || self.is_inside(&to) => at = to,
                _ => return Ok(answer),
            }
        }
        Err(Fault::Final(refused(url, "it leads from one address to the next")))
    }

    fn is_inside(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    fn patiently<T>(&self, ask: impl Fn() -> Answer<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(fault) => again(fault, &mut tries)?,
            }
        }
    }
}

/// The fault of a request that got no answer.
fn fault(url: &str, e: ureq::Error) -> Fault {
    let error = refused(url, e.to_string());
    match e {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Fault::Passing(error),
        _ => Fault::Final(error),
    }
}

/// Refuses an answer that is not what was asked for, in the hub's words where it has some.
fn check(url: &str, answer: &Response<Body>) -> Answer<()> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let why = match (header(answer, "x-error-code").unwrap_or_default(), status.as_u16()) {
        ("RevisionNotFound", _) => "the model has no such revision",
        ("EntryNotFound", _) => "the revision has no such file",
        ("GatedRepo", _) | (_, 403) => {
            "the model is given only to those who have accepted its terms, on its page; HF_TOKEN takes your access token"
        }
        (_, 401) => "there is no such model, or it is private; HF_TOKEN takes your access token",
        ("RepoNotFound", _) | (_, 404) => "there is no such model",
        (_, 429) => "too many requests; try again later",
        _ => "the server refuses it",
    };
    let error = refused(url, format!("{why} (HTTP status {})", status.as_u16()));
    let passes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Err(if passes { Fault::Passing(error) } else { Fault::Final(error) })
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    &url[..url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at)]
}

/// Where a redirect leads from an address: elsewhere, or to another path there; hubs do not say it relative to a path.
fn target(from: &str, to: &str) -> Option<String> {
    match to.strip_prefix("//") {
        Some(rest) => Some(format!("{}//{rest}", &from[..from.find("//")?])),
        None if to.starts_with('/') => Some(format!("{}{to}", origin(from))),
        None => ["https://", "http://"].iter().any(|scheme| to.starts_with(scheme)).then(|| to.into()),
    }
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// A text as a part of an address, or with `parts` as several.
fn escaped(text: &str, parts: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || parts && b == b'/';
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escaped("a b/ä.json", true), "a%20b/%C3%A4.json");
        let client = Client::new("http://127.0.0.1:9/mirror/", None).unwrap();
        assert_eq!(client.place("a/b", "c", "d/e"), "http://127.0.0.1:9/mirror/a/b/resolve/c/d/e");
    }

    #[test]
    fn redirects_lead_out_of_the_hub_by_scheme_host_or_port() {
        let client = Client::new("https://hub.invalid:8/mirror", None).unwrap();
        let led = |to: &str| target("https://hub.invalid:8/mirror/a?b=c", to).map(|to| (client.is_inside(&to), to));
        assert_eq!(led("/x?y=http://z"), Some((true, "https://hub.invalid:8/x?y=http://z".into())));
        assert_eq!(led("https://hub.invalid:8/x"), Some((true, "https://hub.invalid:8/x".into())));
        assert_eq!(led("//cdn.invalid/x"), Some((false, "https://cdn.invalid/x".into())));
        for out in
            ["https://hub.invalid/x", "https://hub.invalid:80", "http://hub.invalid:8/", "https://hub.invalid:8@o/"]
        {
            assert_eq!(led(out), Some((false, out.into())));
        }
        assert_eq!(led("x"), None);
    }

    #[test]
    fn a_token_is_not_sent_in_the_open() {
        let token = || Some("t".to_string());
        assert!(Client::new("http://hub.invalid", token()).is_err() && Client::new("hub.invalid", None).is_err());
        assert!(
            Client::new("https://hub.invalid", token()).is_ok() && Client::new("http://localhost:1", token()).is_ok()
        );
    }
}
