//! Options that several subcommands share: where the cluster is, the token, and what every node is told.

use super::{output, parse, room, text};
use crate::client::{Builder, Client, parse_address};
use crate::error::{Error, Kind, Result};
use crate::server::NodeOptions;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a cluster is looked for if nobody says otherwise.
pub const DEFAULT_MASTER: &str = "127.0.0.1:3000";
/// A token file is not larger than this.
const MOST_TOKEN_BYTES: u64 = 4096;

/// The token file, on every subcommand that talks or listens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TokenArgs {
    /// The file that holds the cluster's token
    #[arg(long, value_name = "FILE", env = "CATSTORE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// What every client command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// Where the cluster is: any of its nodes, several with commas
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', env = "CATSTORE_MASTER", default_value = DEFAULT_MASTER)]
    pub master: Vec<String>,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// What every node takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Node options")]
pub struct NodeArgs {
    /// The address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// The data folder [default: ${XDG_DATA_HOME:-~/.local/share}/catstore/ROLE-PORT]
    #[arg(long, value_name = "DIR", env = "CATSTORE_DATA")]
    pub data: Option<PathBuf>,
    /// The address that others reach this node by
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// A name that requests may carry as their host, beside this node's own; may be repeated
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
    /// Listens beyond this machine without a token
    #[arg(long, conflicts_with = "token_file")]
    pub insecure: bool,
    /// HTTP threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Memory for what was read or written lately [default: an eighth of the machine's or control group's, 48 MiB to 4 GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse::size)]
    pub cache: Option<usize>,
}

impl TokenArgs {
    /// Reads the token, if a file is named. Nodes log what is wrong with the file's mode, commands say it at their end.
    pub fn read(&self) -> Result<Option<String>> {
        // An empty variable names no file.
        self.token_file.as_deref().filter(|path| !path.as_os_str().is_empty()).map(read_token).transpose()
    }
}

impl ClientArgs {
    /// The client of the cluster that the options name.
    pub fn client(&self) -> Result<Client> {
        client(&self.master, &self.token)
    }

    /// The same for so many threads at once.
    pub fn client_of_many(&self, connections: usize) -> Result<Client> {
        builder(&self.master, &self.token)?.connections(connections).build()
    }

    /// These options as words that another command needs to reach the same cluster; nothing for what the environment or
    /// the default says anyway.
    pub fn words(&self) -> String {
        let from = |variable: &str| std::env::var(variable).ok();
        let master = self.master.join(",");
        let file = self.token.token_file.as_ref().map(|path| path.display().to_string());
        let mut words = String::new();
        if master != DEFAULT_MASTER && from("CATSTORE_MASTER").as_deref() != Some(&master) {
            words.push_str(&format!(" --master {}", text::quote(&master)));
        }
        if let Some(file) = file.filter(|file| from("CATSTORE_TOKEN_FILE").as_ref() != Some(file)) {
            words.push_str(&format!(" --token-file {}", text::quote(&file)));
        }
        words
    }
}

/// A client of the cluster at `addresses`; empty ones are skipped, and no address means the default one.
pub fn client(addresses: &[String], token: &TokenArgs) -> Result<Client> {
    builder(addresses, token)?.build()
}

fn builder(addresses: &[String], token: &TokenArgs) -> Result<Builder> {
    Ok(Client::builder(masters(addresses)).token(token.read()?).notice(output::waiting))
}

/// The addresses that were named, or the default one.
pub fn masters(addresses: &[String]) -> Vec<String> {
    let named: Vec<String> = addresses.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
    if named.is_empty() { vec![DEFAULT_MASTER.to_owned()] } else { named }
}

impl NodeArgs {
    /// The options of a node in the role `role` on `port`.
    pub fn node(&self, role: &str, port: u16) -> Result<NodeOptions> {
        let named = self.data.as_deref().filter(|path| !path.as_os_str().is_empty());
        let data = match named {
            Some(path) => path.to_owned(),
            None if port == 0 => {
                return Err(Error::new(Kind::Usage, "port 0 takes another port at each start")
                    .hint("name the data folder with --data DIR"));
            }
            None => default_data(role, port)?,
        };
        let data = std::path::absolute(&data).map_err(|error| {
            Error::new(Kind::Usage, format!("{} is not a folder", data.display())).cause(error)
        })?;
        Ok(NodeOptions {
            host: self.host.clone(),
            port,
            data,
            advertise: self.advertise.as_deref().map(advertised).transpose()?,
            allow_hosts: self.allow_host.clone(),
            token: self.token.read()?,
            insecure: self.insecure,
            threads: self.threads.map(usize::from),
            cache: self.cache.unwrap_or_else(room::for_rows),
        })
    }
}

/// An address to advertise may leave its port out: then it is the port that the node listens on.
fn advertised(text: &str) -> Result<String> {
    let is_address = text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit());
    if is_address { parse_address(text) } else { Ok(text.to_owned()) }
}

fn default_data(role: &str, port: u16) -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let share = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    match share {
        Some(share) => Ok(share.join("catstore").join(format!("{role}-{port}"))),
        None => Err(Error::new(Kind::Usage, "there is no home folder to keep data in")
            .hint("name one with --data DIR")),
    }
}

/// Reads a token file; warns if others can read it too.
fn read_token(path: &Path) -> Result<String> {
    let wrong =
        |detail: String| Error::new(Kind::Usage, format!("the token file {} {detail}", path.display()));
    let unreadable =
        |error| wrong("cannot be read".to_owned()).hint("`catstore token FILE` makes one").cause(error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut bytes = Vec::new();
    file.take(MOST_TOKEN_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if mode & 0o077 != 0 {
        let warning = format!("{} can be read by others; `chmod 600` it", path.display());
        log::warn!("{warning}");
        output::afterthought(warning);
    }
    token_of(&bytes).map_err(|why| wrong(why.to_owned()).hint("`catstore token FILE` makes one"))
}

fn token_of(bytes: &[u8]) -> Result<String, &'static str> {
    if bytes.len() as u64 > MOST_TOKEN_BYTES {
        return Err("is too large to be one");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text")?.trim();
    match text {
        "" => Err("is empty"),
        text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("has more than one line or word, or characters that are not visible ASCII")
        }
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        assert_eq!(token_of(b"abc123\n"), Ok("abc123".to_owned()));
        assert_eq!(token_of(b" \n"), Err("is empty"));
        assert!(token_of(b"a b").is_err());
        assert!(token_of("é".as_bytes()).is_err());
        assert!(token_of(&vec![b'a'; 5000]).is_err());
        assert!(token_of(b"\xff").is_err());
    }

    #[test]
    fn token_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let args = TokenArgs { token_file: Some(path.clone()) };
        assert_eq!(args.read().map_err(|error| error.kind()), Err(Kind::Usage));
        std::fs::write(&path, "secret\n").unwrap();
        assert_eq!(args.read().unwrap(), Some("secret".to_owned()));
        std::fs::write(&path, "").unwrap();
        assert!(args.read().unwrap_err().to_string().contains("is empty"));
        assert_eq!(TokenArgs { token_file: Some(PathBuf::new()) }.read().unwrap(), None);
        assert_eq!(TokenArgs { token_file: None }.read().unwrap(), None);
    }

    #[test]
    fn advertised_addresses_may_leave_their_port_out() {
        assert_eq!(advertised("box").unwrap(), "box");
        assert_eq!(advertised("http://box:3001").unwrap(), "box:3001");
        assert!(advertised("::1").is_err());
    }

    #[test]
    fn the_words_that_lead_to_the_same_cluster() {
        let token = TokenArgs { token_file: Some("/my token".into()) };
        let args = ClientArgs { master: vec!["a:1".into(), "b:2".into()], token };
        assert_eq!(args.words(), " --master a:1,b:2 --token-file '/my token'");
        assert_eq!(
            ClientArgs { master: vec![DEFAULT_MASTER.into()], token: TokenArgs::default() }.words(),
            ""
        );
    }

    #[test]
    fn the_default_master_stands_in_for_nothing() {
        assert_eq!(masters(&[String::new()]), [DEFAULT_MASTER]);
        assert_eq!(masters(&["3005".to_owned(), String::new()]), ["3005"]);
    }
}
