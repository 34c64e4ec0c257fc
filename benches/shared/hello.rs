//! A bare actix-web server that answers every request with the bytes and headers of one recorded answer of
//! catstore: what is left to catstore's own work is the difference. It runs as a process of its own, which is
//! the benchmark's program with `hello` as its first word.

use super::cluster::{Node, free_port};
use super::load::{Answer, raw_get};
use super::{Result, note};
use actix_web::{App, HttpResponse, HttpServer, rt, web};
use std::fs;
use std::path::Path;
use std::time::Duration;

pub struct Hello {
    node: Node,
}

impl Hello {
    pub fn start(folder: &Path, answer: &Answer) -> Result<Hello> {
        let file = folder.join("hello.json");
        fs::write(&file, serde_json::to_vec(answer)?)?;
        let node = Node::start_hello(free_port()?, &file)?;
        node.wait_ready(Duration::from_secs(10))?;
        let own = raw_get(&node.address(), "hello")?;
        if own.length != answer.length {
            note(&format!("hello answers {} bytes where catstore answers {}", own.length, answer.length));
        }
        Ok(Hello { node })
    }

    pub fn address(&self) -> String {
        self.node.address()
    }

    pub fn stop(mut self) -> Result<()> {
        self.node.stop()
    }
}

/// The process: `hello PORT FILE`.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [port, file] = arguments else {
        return Err("usage: hello PORT FILE".into());
    };
    let port: u16 = port.parse()?;
    let answer: Answer = serde_json::from_slice(&fs::read(file)?)?;
    rt::System::new().block_on(async move {
        let answer = web::Data::new(answer);
        let server =
            HttpServer::new(move || App::new().app_data(answer.clone()).default_service(web::to(hello)));
        server.bind(("127.0.0.1", port))?.run().await
    })?;
    Ok(())
}

async fn hello(answer: web::Data<Answer>) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    for (name, value) in &answer.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    response.body(answer.body.clone())
}
