//! `berth cluster`: what the cluster looks like, and who is in it.

use berth_client::{Client, v1};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::Common;
use crate::failure::{EXIT_DONE, EXIT_REFUSED, EXIT_UNAVAILABLE, Failure};
use crate::parse;
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Flags of `berth cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the cluster as one node sees it
    Status,
    /// Add a node that follows without a vote
    Add(AddArgs),
    /// Give a caught-up learner a vote
    Promote(NodeArgs),
    /// Remove a node for good; its ID is never used again
    Remove(NodeArgs),
    /// Hand leadership over to another voter
    Transfer(TransferArgs),
    /// Compare what the replicas hold
    Digest(DigestArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Name that the node must have
    #[arg(long)]
    name: Option<String>,
    /// Address of its peer listener
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: String,
    /// Where the node must say that clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    client_address: Option<String>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Node ID, or the node's name
    node: String,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
struct TransferArgs {
    /// Node ID or name of the voter that shall lead; without it the leader chooses
    node: Option<String>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 where replicas at the same index differ, or a recount does; 4 where a node does not answer."
)]
struct DigestArgs {
    /// Recount every row on each node and compare
    #[arg(long)]
    recount: bool,
    /// How fresh the answers have to be: linearizable, local, bounded:DURATION or at-least:TOKEN
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = parse::consistency)]
    consistency: v1::Consistency,
}

pub(crate) async fn run(common: &Common, args: ClusterArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        ClusterCommand::Status => status(&client, screen).await,
        ClusterCommand::Add(add) => {
            let request = v1::AddLearnerRequest {
                reason: add.reason,
                name: add.name.unwrap_or_default(),
                peer_address: add.peer_address.clone(),
                client_address: add.client_address.unwrap_or_default(),
            };
            let answer = client.add_learner(request).await?;
            let (id, address) = (answer.node_id, add.peer_address);
            let line =
                format!("node {id} at {address} follows now; `berth cluster promote {id}` gives it a vote");
            done(&line, json!({ "node_id": id, "peer_address": address }), screen)
        }
        ClusterCommand::Promote(args) => {
            let node_id = node_id(&client, &args.node).await?;
            client.promote(v1::PromoteRequest { reason: args.reason, node_id }).await?;
            done(&format!("node {node_id} votes now"), json!({ "node_id": node_id }), screen)
        }
        ClusterCommand::Remove(args) => {
            let node_id = node_id(&client, &args.node).await?;
            client.remove_node(v1::RemoveNodeRequest { reason: args.reason, node_id }).await?;
            done(&format!("node {node_id} is removed"), json!({ "node_id": node_id }), screen)
        }
        ClusterCommand::Transfer(args) => {
            let node_id = match &args.node {
                Some(node) => node_id(&client, node).await?,
                None => 0,
            };
            let answer =
                client.transfer_leader(v1::TransferLeaderRequest { reason: args.reason, node_id }).await?;
            let leader = answer.leader_id;
            done(&format!("node {leader} leads now"), json!({ "leader_id": leader }), screen)
        }
        ClusterCommand::Digest(args) => digest(&client, args, screen).await,
    }
}

fn done(line: &str, value: Value, screen: &mut Screen) -> Result<u8, Failure> {
    screen.say(line)?;
    if screen.format != Format::Table {
        screen.one(&value)?;
    }
    Ok(EXIT_DONE)
}

/// A node's ID, from its ID or its name.
async fn node_id(client: &Client, node: &str) -> Result<u64, Failure> {
    if let Ok(id) = node.parse() {
        return Ok(id);
    }
    let status = client.status(v1::StatusRequest {}).await?;
    let found = status.nodes.iter().find(|known| known.name == node);
    found.map(|node| node.id).ok_or_else(|| Failure {
        code: crate::failure::EXIT_NOT_FOUND,
        message: format!("no node is called `{node}`; `berth cluster status` lists them"),
    })
}

async fn status(client: &Client, screen: &mut Screen) -> Result<u8, Failure> {
    let status = client.status(v1::StatusRequest {}).await?;
    let nodes: Vec<Value> = status.nodes.iter().map(node).collect();
    let disk = status.disk.unwrap_or_default();
    if screen.format != Format::Table {
        screen.one(&json!({
            "cluster_id": status.cluster_id,
            "node_id": status.node_id,
            "leader_id": status.leader_id,
            "term": status.term,
            "last_log_index": status.last_log_index,
            "committed_index": status.committed_index,
            "applied_index": status.applied_index,
            "checkpoint_index": status.checkpoint_index,
            "devices": status.devices,
            "nodes": nodes,
            "disk": {
                "pages_bytes": disk.pages_bytes,
                "log_bytes": disk.log_bytes,
                "free_bytes": disk.free_bytes,
                "live_bytes": disk.live_bytes,
            },
            "version": status.version,
            "feature_level": status.feature_level,
            "serving_reads": status.serving_reads,
            "serving_writes": status.serving_writes,
            "restore_epoch": status.restore_epoch,
            "uptime_ms": status.uptime.as_ref().map(present::millis),
            "header": present::header(status.header.as_ref()),
        }))?;
        return Ok(EXIT_DONE);
    }
    let leader = match status.leader_id {
        0 => "nobody leads".to_owned(),
        leader => format!("node {leader} leads"),
    };
    screen.say(&format!(
        "Cluster {}: {} devices at revision {}, {leader} in term {}.",
        status.cluster_id,
        status.devices,
        present::revision(status.header.as_ref()),
        status.term
    ))?;
    screen.say(&format!(
        "Seen by node {}: log to {}, committed {}, applied {}, checkpoint {}; reads {}, writes {}.",
        status.node_id,
        status.last_log_index,
        status.committed_index,
        status.applied_index,
        status.checkpoint_index,
        served(status.serving_reads),
        served(status.serving_writes),
    ))?;
    let mib = |bytes: u64| bytes >> 20;
    screen.say(&format!(
        "Its disk: pages {} MiB ({} MiB live), log {} MiB, {} MiB free.",
        mib(disk.pages_bytes),
        mib(disk.live_bytes),
        mib(disk.log_bytes),
        mib(disk.free_bytes)
    ))?;
    screen.say("")?;
    let columns = [
        Column("NODE", "/id"),
        Column("NAME", "/name"),
        Column("ROLE", "/role"),
        Column("VOTER", "/voter"),
        Column("CLIENTS", "/client_address"),
        Column("PEERS", "/peer_address"),
        Column("MATCHED", "/matched_index"),
        Column("LAG", "/lag"),
        Column("CONTACT MS", "/last_contact_ms"),
    ];
    screen.list(&columns, &nodes)?;
    Ok(EXIT_DONE)
}

fn served(is_served: bool) -> &'static str {
    if is_served { "served" } else { "not served" }
}

fn node(node: &v1::Node) -> Value {
    json!({
        "id": node.id,
        "name": node.name,
        "peer_address": node.peer_address,
        "client_address": node.client_address,
        "role": present::role(node.role),
        "voter": node.voter,
        "matched_index": node.matched_index,
        "lag": node.lag,
        "last_contact_ms": node.last_contact.as_ref().map(present::millis),
    })
}

async fn digest(client: &Client, args: DigestArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let status = client.status(v1::StatusRequest {}).await?;
    let request = v1::DigestRequest { consistency: Some(args.consistency), recount: args.recount };
    let asked = status.nodes.iter().map(|node| {
        let request = request.clone();
        async move { (node, client.digest_of(&node.client_address, request).await) }
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut rows = Vec::new();
    let mut code = EXIT_DONE;
    for (node, answer) in &answers {
        rows.push(match answer {
            Ok(answer) => json!({
                "id": node.id,
                "name": node.name,
                "applied_index": answer.applied_index,
                "devices": answer.devices,
                "digest": answer.digest,
                "recount": answer.recount.as_ref().map(|recount| json!({
                    "agrees": recount.agrees,
                    "devices": recount.devices,
                    "digest": recount.digest,
                    "disagreements": recount.disagreements,
                })),
            }),
            Err(error) => {
                code = EXIT_UNAVAILABLE;
                json!({ "id": node.id, "name": node.name, "error": error.to_string() })
            }
        });
    }
    let answered: Vec<&v1::DigestResponse> =
        answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let differ = answered.iter().enumerate().any(|(at, one)| {
        let later = answered.iter().skip(at + 1);
        later.clone().any(|other| one.applied_index == other.applied_index && one.digest != other.digest)
    });
    let miscounted =
        answered.iter().any(|answer| answer.recount.as_ref().is_some_and(|recount| !recount.agrees));
    let is_comparable = answered.windows(2).all(|pair| pair[0].applied_index == pair[1].applied_index);
    if screen.format == Format::Table {
        let columns = [
            Column("NODE", "/id"),
            Column("NAME", "/name"),
            Column("APPLIED", "/applied_index"),
            Column("DEVICES", "/devices"),
            Column("DIGEST", "/digest"),
            Column("RECOUNT AGREES", "/recount/agrees"),
            Column("", "/error"),
        ];
        screen.list(&columns, &rows)?;
    } else {
        screen.one(&json!({ "nodes": rows, "differ": differ, "comparable": is_comparable }))?;
    }
    if differ {
        screen.complain("replicas at the same index hold different content; keep their data directories and stop using the ones in the minority");
        code = EXIT_REFUSED;
    } else if miscounted {
        screen.complain("a node's counters or digest differ from a recount of its rows; keep its data directory and replace the node");
        code = EXIT_REFUSED;
    } else if !is_comparable {
        screen.remark(
            "The replicas are at different indexes, since writes go on; digests compare only at equal ones.",
        );
    }
    Ok(code)
}
