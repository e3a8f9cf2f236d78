//! Owns the fleet: an API server with three GameServers, and for each a game and a sidecar with its mounted files.

use std::error::Error;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, process};

use serde_json::{Value, json};

use stand_ins::{ApiServer, Authority, Game, Loopback, game_server, game_server_path};

const NAMESPACE: &str = "games";
const TOKEN: &str = "a-token-of-the-demo";
const CONFIG: &str = include_str!("../config.yaml");

/// Three game servers of a set, `tank-war-0` to `tank-war-2`.
pub(crate) struct Fleet {
    api: ApiServer,
    servers: [Server; 3],
    folder: PathBuf,
}

/// One game server: its pod's two containers and what is mounted into them.
struct Server {
    name: String,
    path: String,
    uid: String,
    game: Game,
    folder: PathBuf,
    sidecar: Option<Running>,
}

impl Fleet {
    /// The GameServers as OpenKruiseGame creates them, and games that nobody plays. No sidecar runs yet.
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let folder = env::temp_dir().join(format!("okg-sidecar-demo-{}", process::id()));
        let authority = Authority::new("demo");
        let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
        let ca = authority.pem();
        let server = |index| Server::new(index, &folder, &ca);
        let servers = [server(0)?, server(1)?, server(2)?];
        for Server { name, path, uid, .. } in &servers {
            api.put(path, game_server(NAMESPACE, name, uid));
        }
        Ok(Self { api, servers, folder })
    }

    /// What the game answers from now on.
    pub(crate) fn game_answers(&self, index: usize, status: u16, word: &str) {
        self.servers[index].game.set(status, word);
    }

    /// Sets opsState as a client other than the sidecar does.
    pub(crate) fn somebody_sets(&self, index: usize, manager: &str, state: &str) {
        self.api.edit(&self.servers[index].path, manager, |object| object["spec"]["opsState"] = json!(state));
    }

    pub(crate) fn start_sidecar(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let server = &mut self.servers[index];
        server.sidecar = Some(Running::start(server, self.api.address())?);
        Ok(())
    }

    /// Ends the process by SIGKILL, which leaves it no last word.
    pub(crate) fn kill_sidecar(&mut self, index: usize) {
        self.servers[index].sidecar = None;
    }

    /// Fails when a sidecar has ended by itself.
    pub(crate) fn all_run(&mut self) -> Result<(), Box<dyn Error>> {
        for Server { name, sidecar, .. } in &mut self.servers {
            if let Some(status) = sidecar.as_mut().map(|running| running.0.try_wait()).transpose()?.flatten() {
                return Err(format!("the sidecar of {name} ended by itself: {status}").into());
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> [&str; 3] {
        self.servers.each_ref().map(|server| server.name.as_str())
    }

    /// The objects, by index.
    pub(crate) fn game_servers(&self) -> Vec<Value> {
        self.servers.iter().filter_map(|server| self.api.object(&server.path)).collect()
    }

    /// The opsState of each.
    pub(crate) fn states(&self) -> Vec<String> {
        let state = |server: &Server| self.api.text(&server.path, "/spec/opsState").unwrap_or_default();
        self.servers.iter().map(state).collect()
    }

    pub(crate) fn probes_of(&self, index: usize) -> usize {
        self.servers[index].game.requests().len()
    }

    pub(crate) fn probes(&self) -> usize {
        (0..self.servers.len()).map(|index| self.probes_of(index)).sum()
    }

    /// The number of patches that change something.
    pub(crate) fn writes(&self) -> usize {
        self.api.requests().iter().filter(|request| !request.is_read()).count()
    }

    /// Requests that change nothing.
    pub(crate) fn reads(&self) -> usize {
        self.api.requests().iter().filter(|request| request.is_read()).count()
    }

    /// The folder of the sidecars' logs, each in a file of its name.
    pub(crate) fn logs(&self) -> &Path {
        &self.folder
    }

    /// Ends the sidecars and removes their files.
    pub(crate) fn remove(mut self) -> Result<(), Box<dyn Error>> {
        (0..self.servers.len()).for_each(|index| self.kill_sidecar(index));
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

impl Server {
    fn new(index: usize, of_fleet: &Path, ca: &str) -> Result<Self, Box<dyn Error>> {
        let name = format!("tank-war-{index}");
        let game = Game::start();
        game.set(200, "None");
        let folder = of_fleet.join(&name);
        fs::create_dir_all(&folder)?;
        let config = CONFIG.replace("localhost:8080", &game.address().to_string());
        for (file, text) in
            [("config.yaml", config.as_str()), ("token", TOKEN), ("ca.crt", ca), ("namespace", NAMESPACE)]
        {
            fs::write(folder.join(file), text)?;
        }
        let path = game_server_path(NAMESPACE, &name);
        let uid = format!("7d9cbd3f-24ef-4d38-9a5e-6a8f0a3c1d5{index}");
        Ok(Self { name, path, uid, game, folder, sidecar: None })
    }
}

/// A sidecar's process, until it is dropped.
struct Running(Child);

impl Running {
    /// This program once more, with the environment that kubelet gives a container.
    fn start(server: &Server, api: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(server.folder.with_extension("log"))?;
        let child = Command::new(env::current_exe()?)
            .arg(crate::SIDECAR)
            .arg(&server.folder)
            .env_clear()
            .env("KUBERNETES_SERVICE_HOST", api.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", api.port().to_string())
            .env("POD_NAME", &server.name)
            .env("POD_UID", &server.uid)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
