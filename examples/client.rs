//! A program that uses the client: puts, gets, lists and deletes, then changes a counter only if nobody else did.
//!
//!     cargo run --example client -- 3000
//!
//! The argument names any node of a running cluster (`catstore demo` starts one). Its keys begin with `example/`.

use catstore::client::{Client, Condition, ListOptions, PutOptions};
use catstore::error::Kind;

fn main() -> anyhow::Result<()> {
    let node = std::env::args().nth(1).unwrap_or_else(|| "3000".to_owned());
    // A token, for nodes that listen beyond this machine, would be the second argument.
    let client = Client::new(vec![node], None)?;

    let stored = client.put("example/A", "happy", PutOptions::default())?;
    println!("example/A is stored as version {}", stored.version);

    if let Some(value) = client.get("example/A")? {
        println!("example/A is {:?}", String::from_utf8_lossy(&value.bytes));
    }

    count(&client)?;
    count(&client)?;

    for page in client.pages(ListOptions { prefix: b"example/".to_vec(), ..ListOptions::default() }) {
        for key in page?.keys {
            let name = String::from_utf8_lossy(&key.key.0).into_owned();
            println!("{name}: {} bytes, version {}", key.size, key.version);
            client.delete(&key.key.0, Condition::Any)?;
        }
    }
    println!("and gone: {:?}", client.get("example/A")?.map(|value| value.version));
    Ok(())
}

/// Adds one to a counter. Between the read and the write somebody else may have counted; then the condition fails,
/// nothing is written, and the loop reads again.
fn count(client: &Client) -> anyhow::Result<()> {
    loop {
        let (number, condition) = match client.get("example/counter")? {
            Some(value) => {
                let text = String::from_utf8_lossy(&value.bytes).into_owned();
                (text.trim().parse::<u64>().unwrap_or(0), Condition::Version(value.version))
            }
            None => (0, Condition::Absent),
        };
        let options = PutOptions { condition, ..PutOptions::default() };
        match client.put("example/counter", (number + 1).to_string(), options) {
            Err(error) if error.kind() == Kind::ConditionFailed => continue,
            done => {
                println!("example/counter is {} as version {}", number + 1, done?.version);
                return Ok(());
            }
        }
    }
}
