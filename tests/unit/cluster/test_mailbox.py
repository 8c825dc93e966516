"""The mailbox: what is kept until it is collected, and who is asked to stop."""

from raycap.cluster.mailbox import Mail, Mailbox


def test_items_are_kept_in_order_and_updates_replace_each_other() -> None:
    mailbox = Mailbox()
    for number in range(3):
        mailbox.post("a", number)
        mailbox.update("a", f"{number} done")
        mailbox.update("b", number)
    assert mailbox.collect() == Mail(items=[0, 1, 2], updates={"a": "2 done", "b": 2})
    assert mailbox.collect() == Mail()


def test_an_item_is_newer_than_its_senders_last_update() -> None:
    mailbox = Mailbox()
    mailbox.update("a", "half done")
    mailbox.update("b", "half done")
    mailbox.post("a", "done")
    assert mailbox.collect() == Mail(items=["done"], updates={"b": "half done"})


def test_every_answer_says_whether_to_stop() -> None:
    mailbox = Mailbox()
    assert not mailbox.begin("a")
    assert not mailbox.post("a", 1)
    mailbox.stop()
    assert mailbox.wants_stop()
    assert mailbox.post("a", 2)
    assert mailbox.update("a", 3)
    assert mailbox.begin("b")
    assert mailbox.num_running() == 2
    mailbox.end("a")
    mailbox.end("a")
    assert mailbox.num_running() == 1
