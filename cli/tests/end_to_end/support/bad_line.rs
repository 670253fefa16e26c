//! A line between a device and a gateway that breaks: within a request, or before its answer has arrived.

use super::http;
use rand::Rng;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Takes connections at an address that stays, whatever becomes of the gateway behind it. Ends when dropped.
#[derive(Debug)]
pub struct BadLine {
    address: String,
    gateway: watch::Sender<String>,
}

/// How many bytes a connection carries each way before it is cut.
#[derive(Debug, Clone, Copy)]
struct Carries {
    request: u64,
    answer: u64,
}

impl Carries {
    fn by_chance() -> Carries {
        let mut rng = rand::rng();
        let all = u64::MAX;
        match rng.random_range(0..5) {
            // The device sees the connection end; the gateway has got a part, or all.
            0 => Carries { request: rng.random_range(1..4_000), answer: all },
            1 => Carries { request: all, answer: 0 },
            2 => Carries { request: all, answer: rng.random_range(1..200) },
            _ => Carries { request: all, answer: all },
        }
    }
}

impl BadLine {
    /// To the gateway that devices are told to post to at `url`.
    pub fn to(url: &str) -> BadLine {
        let listener = http::RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (gateway, mut at) = watch::channel(host(url).to_owned());
        http::RUNTIME.spawn(async move {
            loop {
                let (device, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = async { while at.changed().await.is_ok() {} } => return,
                };
                let gateway = at.borrow().clone();
                // A gateway that is away, and a device that gives up, end a connection like everything else.
                tokio::spawn(
                    async move { carry(device, TcpStream::connect(gateway).await?, Carries::by_chance()).await },
                );
            }
        });
        BadLine { address, gateway }
    }

    /// What the device posts to, instead of `url`.
    pub fn instead_of(&self, url: &str) -> String {
        url.replace(host(url), &self.address)
    }

    /// The gateway is somewhere else now.
    pub fn go_to(&self, url: &str) {
        self.gateway.send_replace(host(url).to_owned());
    }
}

/// `host:port` of a URL.
fn host(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

async fn carry(mut device: TcpStream, mut gateway: TcpStream, carries: Carries) -> std::io::Result<()> {
    let (from_device, mut to_device) = device.split();
    let (from_gateway, mut to_gateway) = gateway.split();
    let (mut request, mut answer) = (from_device.take(carries.request), from_gateway.take(carries.answer.max(1)));
    let up = async {
        if copy(&mut request, &mut to_gateway).await? < carries.request {
            // The device has said all it had to say.
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        std::io::Result::Ok(())
    };
    let down = async {
        if carries.answer == 0 {
            // It is cut when the answer is there and has not been passed on.
            answer.read_u8().await?;
            return Ok(());
        }
        copy(&mut answer, &mut to_device).await?;
        to_device.shutdown().await
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}
