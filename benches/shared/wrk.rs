//! wrk: its scripts, a run, and what it prints.

use super::load::{self, Data};
use super::{CONNECTIONS, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every thread draws its own keys: wrk gives each a Lua state of its own, and setup numbers them.
const SEEDS: &str = "local threads = 0\n\
                     function setup(thread) threads = threads + 1; thread:set('number', threads) end\n\
                     function init(args) math.randomseed(number * 7919 + os.time()) end\n";

/// A request is made from a first one, whose middle is replaced: made anew, it would cost as much as the answer, and what the
/// load generator takes the server lacks. (redis-benchmark writes its keys into a request that is there, too.)
const CUT: &str = "local head, tail\n\
                   local function cut(whole, middle)\n\
                   \x20 local from, to = whole:find(middle, 1, true)\n\
                   \x20 head, tail = whole:sub(1, from - 1), whole:sub(to + 1)\n\
                   end\n";

/// A Lua script on disk.
pub struct Script {
    path: PathBuf,
}

/// What one run of wrk saw.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub per_second: f64,
    /// 99 of 100 answers came within so many milliseconds.
    pub p99: f64,
}

impl Script {
    /// GET of random keys.
    pub fn get(folder: &Path, data: &Data) -> Result<Script> {
        Script::write(folder.join("get.lua"), data, "GET", "nil")
    }

    /// PUT of random keys.
    pub fn put(folder: &Path, data: &Data) -> Result<Script> {
        Script::write(folder.join("put.lua"), data, "PUT", &format!("string.rep('v', {})", data.size))
    }

    /// GET of keys that nobody put.
    pub fn absent(folder: &Path, keys: usize) -> Result<Script> {
        let path = folder.join("absent.lua");
        let script = format!(
            "{SEEDS}function request()\n\
             \x20 return wrk.format('GET', string.format('/kv/absent-%07d', math.random(0, {keys} - 1)))\n\
             end\n"
        );
        fs::write(&path, script)?;
        Ok(Script { path })
    }

    /// POST of batches: each puts all keys of one tag, which share a slot. They are made before the clock runs.
    pub fn batch(folder: &Path, data: &Data, operations: usize) -> Result<Script> {
        let path = folder.join("batch.lua");
        let (tags, value) = (data.keys / operations, "v".repeat(data.size));
        let script = format!(
            "{SEEDS}local requests = {{}}\n\
             local headers = {{ ['Content-Type'] = 'application/json' }}\n\
             function request()\n\
             \x20 local tag = math.random(0, {tags} - 1)\n\
             \x20 if requests[tag] == nil then\n\
             \x20   local ops = {{}}\n\
             \x20   for at = 1, {operations} do\n\
             \x20     ops[at] = string.format('{{\"op\":\"put\",\"key\":\"{{%d}}-%d\",\"value\":\"{value}\"}}', tag, at)\n\
             \x20   end\n\
             \x20   requests[tag] = wrk.format('POST', '/batch', headers, '{{\"ops\":[' .. table.concat(ops, ',') .. ']}}')\n\
             \x20 end\n\
             \x20 return requests[tag]\n\
             end\n"
        );
        fs::write(&path, script)?;
        Ok(Script { path })
    }

    /// POST of a JSON document that names a random one of `keys` in base64, as etcd's gateway takes it; `rest` is the rest of
    /// the document. The keys are equally long.
    pub fn post(folder: &Path, to: &str, keys: impl Iterator<Item = String>, rest: &str) -> Result<Script> {
        let name = to.replace('/', "-");
        let list = folder.join(format!("{name}.keys"));
        let keys: Vec<String> = keys.map(|key| BASE64.encode(key)).collect();
        if keys.iter().any(|key| key.len() != keys[0].len()) {
            return Err("keys of one length are needed: requests differ in nothing else".into());
        }
        fs::write(&list, keys.join("\n"))?;
        let script = format!(
            "{SEEDS}{CUT}local keys = {{}}\n\
             for line in io.lines('{}') do keys[#keys + 1] = line end\n\
             local headers = {{ ['Content-Type'] = 'application/json' }}\n\
             function request()\n\
             \x20 if not head then\n\
             \x20   cut(wrk.format('POST', '{to}', headers, '{{\"key\":\"' .. keys[1] .. '\"{rest}}}'), keys[1])\n\
             \x20 end\n\
             \x20 return head .. keys[math.random(1, #keys)] .. tail\n\
             end\n",
            list.display()
        );
        let path = folder.join(format!("{name}.lua"));
        fs::write(&path, script)?;
        Ok(Script { path })
    }

    fn write(path: PathBuf, data: &Data, method: &str, body: &str) -> Result<Script> {
        let key = key(data);
        let script = format!(
            "{SEEDS}{CUT}function request()\n\
             \x20 if not head then cut(wrk.format('{method}', '/kv/KEY', nil, {body}), 'KEY') end\n\
             \x20 local number = math.random(0, {} - 1)\n\
             \x20 return head .. {key} .. tail\n\
             end\n",
            data.keys
        );
        fs::write(&path, script)?;
        Ok(Script { path })
    }
}

/// The key with the number `number`, in Lua, as a path has it.
fn key(data: &Data) -> String {
    match data.names {
        load::Names::Plain => "string.format('key-%06d', number)".to_owned(),
        load::Names::Tagged => {
            format!("string.format('%%7B%d%%7D-%07d', math.floor(number / {}), number)", load::BATCH)
        }
    }
}

/// An error that says what to do if wrk is not there.
pub fn present() -> Result<()> {
    match Command::new("wrk").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("wrk cannot be run ({error}); type: scripts/setup bench").into()),
    }
}

/// Runs `script` against `address` over so many connections; an answer that is not 2xx, or that takes ten seconds, is an error.
pub fn run(script: &Script, address: &str, connections: usize, seconds: u64) -> Result<Seen> {
    let text = text_of(script, address, connections, seconds)?;
    match text.lines().find(|line| line.contains("Non-2xx")) {
        Some(line) => Err(format!("wrk at {address}: {}", line.trim()).into()),
        None => seen(&text),
    }
}

/// GET of nearly every key, in order: wrk stops by the clock, so that it is told anew every ten seconds where to go on. Errors:
/// those of [`run`].
pub fn read_each(folder: &Path, data: &Data, address: &str) -> Result<()> {
    let (key, path) = (key(data), folder.join("each.lua"));
    let mut from = 0;
    while from < data.keys {
        let script = format!(
            "{SEEDS}{CUT}local at = -1\n\
             function request()\n\
             \x20 if not head then cut(wrk.format('GET', '/kv/KEY', nil, nil), 'KEY') end\n\
             \x20 at = at + 1\n\
             \x20 local number = ({from} + at * 2 + number - 1) % {}\n\
             \x20 return head .. {key} .. tail\n\
             end\n",
            data.keys
        );
        fs::write(&path, script)?;
        let seconds = 10;
        let seen = run(&Script { path: path.clone() }, address, CONNECTIONS, seconds)?;
        // One of the two threads may have come less far than the other.
        from += ((seen.per_second * seconds as f64 * 0.95) as usize).max(1);
    }
    Ok(())
}

/// The same where no answer may be 2xx.
pub fn run_absent(script: &Script, address: &str, connections: usize, seconds: u64) -> Result<Seen> {
    let text = text_of(script, address, connections, seconds)?;
    let refused = field(&text, "Non-2xx or 3xx responses:");
    let all = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    match (refused, all) {
        (Some(refused), Some((all, _))) if refused == all => seen(&text),
        _ => Err(format!("wrk at {address}: not every key was absent: {text}").into()),
    }
}

/// What wrk prints. A socket error is one here too.
fn text_of(script: &Script, address: &str, connections: usize, seconds: u64) -> Result<String> {
    let output = Command::new("wrk")
        .args([&format!("-t{}", connections.min(2)), "--latency", "--timeout=10s"])
        .args([&format!("-c{connections}"), &format!("-d{seconds}s")])
        .arg("-s")
        .arg(&script.path)
        .arg(format!("http://{address}/"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    if let Some(line) = text.lines().find(|line| line.contains("Socket errors")) {
        return Err(format!("wrk at {address}: {}", line.trim()).into());
    }
    Ok(text.into_owned())
}

/// The figures in what wrk printed.
fn seen(text: &str) -> Result<Seen> {
    let per_second = field(text, "Requests/sec:").and_then(|word| word.parse().ok());
    let p99 = field(text, "99%").and_then(milliseconds);
    match (per_second, p99) {
        (Some(per_second), Some(p99)) => Ok(Seen { per_second, p99 }),
        _ => Err(format!("wrk printed something unexpected: {text}").into()),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

/// `1.23ms`, `456.00us` or `1.20s`.
fn milliseconds(word: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = word.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}
