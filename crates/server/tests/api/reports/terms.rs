//! Leadership that changes while a question is on its way.

use berth_core::reconcile::IdentitySeen;
use berth_proto::convert::Consistency;
use berth_proto::v1;
use berth_proto::v1::{HubObservation, ReportFinding};
use berth_server::run::Node;

use super::read_through::asked;
use super::stage::{Three, assigned, lookups_of, metric_of, request};
use crate::{HUB_1, HUB_2};

/// Where DPS has put the device, and its epoch, once a lookup is answered.
async fn look_up(three: &Three, device: &str) -> (String, u64) {
    loop {
        let mut lookups = lookups_of(three.leader().await).await;
        match lookups.lookup(asked(device, Consistency::Linearizable)).await {
            Ok(answer) => match answer.into_inner().result {
                Some(v1::lookup_response::Result::Found(found)) => return (found.hub, found.epoch),
                other => panic!("{other:?}"),
            },
            // An election is under way.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        }
    }
}

/// Neither a leader that was replaced nor one that leads again in a later term does what follows from an answer to a
/// question of an earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_an_earlier_term_is_dropped() {
    for comes_back in [false, true] {
        let three = Three::start().await;
        three.set_up().await;
        three.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
        let (hub, epoch) = look_up(&three, "d-1").await;
        assert_eq!(hub, HUB_1);
        // DPS's own word of before gives way to its present one, without more ado.
        three.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_2, None))));
        three.authority.hold();
        let first = three.leader().await;
        let mut lookups = lookups_of(first).await;
        let calls = three.authority.calls();
        let asked = request("d-1", HUB_1, epoch, HubObservation::NotFound);
        let report = tokio::spawn(async move { lookups.report(asked).await });
        three.authority.asked(calls + 1).await;
        let other = three.transfer(first, None).await;
        if comes_back {
            three.transfer(other, Some(first)).await;
        }
        three.authority.release();
        match report.await.unwrap() {
            // It did not wait for as long as that took, or had nothing to tell.
            Ok(answer) => assert!(
                matches!(answer.get_ref().finding(), ReportFinding::Stale | ReportFinding::NotVerified),
                "{answer:?}"
            ),
            // The node that was asked does not lead any more.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        }
        let calls = three.authority.calls();
        assert_eq!(look_up(&three, "d-1").await, (HUB_1.to_owned(), epoch), "comes back: {comes_back}");
        assert_eq!(three.authority.calls(), calls);
        // The next report is of the new term, and is answered as if nobody had asked before.
        loop {
            let mut lookups = lookups_of(three.leader().await).await;
            match lookups.report(request("d-1", HUB_1, epoch, HubObservation::NotFound)).await {
                Ok(answer) if answer.get_ref().finding() == ReportFinding::NotVerified => {}
                Ok(answer) => {
                    assert_eq!(answer.into_inner().finding(), ReportFinding::Changed);
                    break;
                }
                Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
            }
        }
        assert_eq!(look_up(&three, "d-1").await, (HUB_2.to_owned(), epoch + 1));
        three.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_shown_by_the_leader_alone() {
    let three = Three::start().await;
    three.set_up().await;
    three.authority.registration("far", Ok(Some(assigned("far", "stranger.example", None))));
    let line = "berth_reconcile_drift{class=\"HUB_UNKNOWN\"}";
    let first = loop {
        let leader = three.leader().await;
        let mut lookups = lookups_of(leader).await;
        let status = lookups.lookup(asked("far", Consistency::Linearizable)).await.unwrap_err();
        if status.code() == tonic::Code::FailedPrecondition && metric_of(leader, line).await == 1 {
            break leader;
        }
    };
    three.transfer(first, None).await;
    for node in &three.nodes {
        assert_eq!(metric_of(node, line).await, 0);
    }
    three.stop().await;
}

/// What was found in an earlier term is not known in a later one, and what was begun is not gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_begins_anew() {
    let three = Three::start().await;
    three.set_up().await;
    three.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    three.authority.identity("d-1", Ok(IdentitySeen::Missing));
    let (_, epoch) = look_up(&three, "d-1").await;
    let asked = || request("d-1", HUB_1, epoch, HubObservation::NotFound);
    // Asks about the device in a term of this leader's, until that is what was found.
    let find_missing = async |leader: &Node| {
        let mut lookups = lookups_of(leader).await;
        loop {
            match lookups.report(asked()).await {
                Ok(answer) if answer.get_ref().finding() == ReportFinding::Negative => return,
                Ok(answer) => assert!(
                    matches!(answer.get_ref().finding(), ReportFinding::Stale | ReportFinding::NotVerified),
                    "{answer:?}"
                ),
                Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
            }
        }
    };
    let first = three.leader().await;
    find_missing(first).await;
    let other = three.transfer(first, None).await;
    three.transfer(other, Some(first)).await;
    let calls = three.authority.calls();
    find_missing(first).await;
    assert!(three.authority.calls() >= calls + 2, "both are asked again");
    // DPS names the same hub, which would be asked next.
    three.authority.registration("d-2", Ok(Some(assigned("d-2", HUB_1, None))));
    three.authority.identity("d-2", Ok(IdentitySeen::Missing));
    let (_, epoch) = look_up(&three, "d-2").await;
    let calls = three.authority.calls();
    three.authority.hold();
    let leader = three.leader().await;
    let mut lookups = lookups_of(leader).await;
    let asked = request("d-2", HUB_1, epoch, HubObservation::NotFound);
    let report = tokio::spawn(async move { lookups.report(asked).await });
    three.authority.asked(calls + 1).await;
    three.transfer(leader, None).await;
    three.authority.release();
    drop(report.await.unwrap());
    assert_eq!(three.authority.calls(), calls + 1, "the hub is not asked");
    three.stop().await;
}
