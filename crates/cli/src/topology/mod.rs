//! `berth stamp`, `hub`, `scope` and `route`: the objects of the topology one by one.
//!
//! A [`Kind`] says what is particular to one of them: its words, flags and columns. How its commands run is here, once
//! for all; which calls serve it is a row of the table in `calls`.

mod calls;
mod flags;
mod hub;
mod route;
mod scope;
mod stamp;
mod state;

use std::fmt::Debug;

use berth_client::Client;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::Common;
use crate::device::WriteArgs;
use crate::failure::{EXIT_DONE, Failure};
use crate::present;
use crate::screen::{Column, Format, Screen};
use calls::{Answer, Calls};
use flags::{DeleteArgs, Described, GetArgs, ListOfStamp, UpdateArgs};

/// A kind of object: what its commands are called, take and show.
pub(crate) trait Kind: Calls + Debug {
    /// Its name in commands, sentences and JSON.
    const WORD: &'static str;
    /// What its objects are told apart by.
    const KEY: &'static str = "name";
    /// What an update does, for help.
    const UPDATES: &'static str;
    /// What a deletion does, for help.
    const DELETES: &'static str;
    /// Its table.
    const COLUMNS: &'static [Column];

    /// Flags of a list.
    type List: Args + Debug + Into<ListOfStamp>;
    /// Flags of a creation.
    type New: Args + Debug + Into<Described<Self>>;
    /// Flags of an update, as far as they describe the object.
    type Fields: Args + Debug + Into<Described<Self>>;
    /// Commands that only this kind has.
    type More: Subcommand + Debug;

    /// The object as it is printed.
    fn shown(&self) -> Value;

    /// Runs a command that only this kind has.
    async fn more(client: &Client, more: Self::More, screen: &mut Screen) -> Result<(), Failure>;
}

/// Flags of the commands of a kind.
#[derive(Debug, Args)]
pub(crate) struct ObjectArgs<K: Kind> {
    #[command(subcommand)]
    command: ObjectCommand<K>,
}

#[derive(Debug, Subcommand)]
enum ObjectCommand<K: Kind> {
    #[command(about = format!("List {}s by {}", K::WORD, K::KEY))]
    List(K::List),
    #[command(about = format!("Read a {}", K::WORD))]
    Get(GetArgs),
    #[command(about = format!("Create a {}", K::WORD))]
    Create(K::New),
    #[command(about = K::UPDATES)]
    Update(UpdateArgs<K::Fields>),
    #[command(about = K::DELETES)]
    Delete(DeleteArgs),
    #[command(flatten)]
    More(K::More),
}

/// Runs a command on objects of one kind.
pub(crate) async fn run<K: Kind>(
    common: &Common,
    args: ObjectArgs<K>,
    screen: &mut Screen,
) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        ObjectCommand::List(list) => {
            let rows = all_pages::<K>(&client, list.into()).await?;
            screen.list(K::COLUMNS, &rows)?;
        }
        ObjectCommand::Get(get) => {
            let object = K::get(&client, get.name, get.read.consistency).await?;
            screen.one(&object.as_ref().map(K::shown).unwrap_or_default())?;
        }
        ObjectCommand::Create(new) => {
            let Described { object, write, .. } = new.into();
            let name = object.name().to_owned();
            let answer = K::create(&client, object, &write).await?;
            told(&name, "created", &write, answer, screen)?;
        }
        ObjectCommand::Update(update) => {
            let Described { object, given, write } = update.fields.into();
            let name = object.name().to_owned();
            let answer =
                K::update(&client, object, mask::<K>(given)?, update.expected.if_revision, &write).await?;
            told(&name, "changed", &write, answer, screen)?;
        }
        ObjectCommand::Delete(DeleteArgs { name, expected, write }) => {
            let answer = K::delete(&client, name.clone(), expected.if_revision, &write).await?;
            told(&name, "deleted", &write, answer, screen)?;
        }
        ObjectCommand::More(more) => K::more(&client, more, screen).await?,
    }
    Ok(EXIT_DONE)
}

async fn all_pages<K: Kind>(client: &Client, list: ListOfStamp) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let (objects, next) = K::page(client, &list, page_token).await?;
        rows.extend(objects.iter().map(K::shown));
        if next.is_empty() {
            return Ok(rows);
        }
        page_token = next;
    }
}

/// The mask of an update; an update of nothing is a mistake in the command.
fn mask<K: Kind>(given: Vec<&'static str>) -> Result<prost_types::FieldMask, Failure> {
    if given.is_empty() {
        let kind = K::WORD;
        return Err(Failure::usage(format!(
            "nothing to change; `berth {kind} update --help` lists the fields"
        )));
    }
    Ok(prost_types::FieldMask { paths: given.into_iter().map(str::to_owned).collect() })
}

/// Says what was done to an object, and shows it where it is still there.
fn told<K: Kind>(
    name: &str,
    done: &str,
    write: &WriteArgs,
    (header, object): Answer<K>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let kind = K::WORD;
    let revision = present::revision(header.as_ref());
    let would = if write.dry_run { "would be " } else { "" };
    screen.say(&format!("{kind} {name}: {would}{done} (revision {revision})"))?;
    if screen.format != Format::Table {
        let object = object.as_ref().map_or_else(|| json!({ "name": name, "done": done }), K::shown);
        screen.one(
            &json!({ kind: object, "dry_run": write.dry_run, "header": present::header(header.as_ref()) }),
        )?;
    }
    Ok(())
}
