"""``amqp``: exchanges, queues and single messages of a RabbitMQ, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import Group, pass_session
from celeriac.cli.session import Session

Decorated = Callable[..., Any]


class AmqpGroup(Group):
    """Says of Celery's other commands why they are not there."""

    ABSENT: Final = {
        "basic.ack": "has no meaning here: each command has a connection of its own, and what basic.get "
        "takes without no_ack goes back to its queue when it ends",
        "repl": "is not there: give the commands one by one",
    }

    def unknown(self, ctx: click.Context, name: str) -> str:
        """What is said about a command that does not exist."""
        if name in self.ABSENT:
            return f"The command 'amqp {name}' {self.ABSENT[name]}."
        return super().unknown(ctx, name)


@click.group("amqp", cls=AmqpGroup)
def amqp() -> None:
    """Declare, bind, delete and purge on RabbitMQ; get and publish single messages.

    Nothing of the application's is looked at but where the broker is. Yes and no are given as true and false.
    """


def _flags(*names: str) -> Callable[[Decorated], Decorated]:
    """Optional arguments true or false, in this order."""

    def decorate(command: Decorated) -> Decorated:
        for name in reversed(names):
            command = click.argument(name, type=bool, default=False)(command)
        return command

    return decorate


@contextmanager
def _desk(session: Session, doing: str) -> Iterator[Any]:
    """The channel of the broker's connection. Raises ``Failure`` if the broker is no RabbitMQ."""
    with _rabbit(session).session(doing) as link:
        yield link.desk
    click.secho("OK.", fg="green", bold=True)


def _rabbit(session: Session) -> Any:
    broker: Any = session.broker_engine
    if not str(broker.url).startswith(("amqp", "pyamqp")):
        raise Failure(
            f"'amqp' speaks to RabbitMQ, and the broker is {broker.url}. 'queues', 'purge' and 'dead' work "
            "with every broker"
        )
    return broker


@amqp.command("exchange.declare", cls=Group.command_class)
@click.argument("exchange")
@click.argument("type")
@_flags("passive", "durable", "auto_delete")
@pass_session
def exchange_declare(session: Session, /, exchange: str, type: str, **flags: bool) -> None:
    """Declare an exchange of this type; with passive only see whether it is there."""
    with _desk(session, "declare an exchange") as desk:
        desk.exchange_declare(exchange, type, **flags)


@amqp.command("exchange.delete", cls=Group.command_class)
@click.argument("exchange")
@_flags("if_unused")
@pass_session
def exchange_delete(session: Session, /, exchange: str, if_unused: bool) -> None:
    """Delete an exchange."""
    with _desk(session, "delete an exchange") as desk:
        desk.exchange_delete(exchange, if_unused)


@amqp.command("queue.declare", cls=Group.command_class)
@click.argument("queue")
@_flags("passive", "durable", "auto_delete")
@pass_session
def queue_declare(session: Session, /, queue: str, **flags: bool) -> None:
    """Declare a queue; with passive only look. Prints its messages and consumers."""
    with _desk(session, "declare a queue") as desk:
        told = desk.queue_declare(queue, exclusive=False, **flags)
        click.echo(f"queue:{told.queue} messages:{told.message_count} consumers:{told.consumer_count}")


@amqp.command("queue.bind", cls=Group.command_class)
@click.argument("queue")
@click.argument("exchange")
@click.argument("routing_key")
@pass_session
def queue_bind(session: Session, /, queue: str, exchange: str, routing_key: str) -> None:
    """Bind a queue to an exchange."""
    with _desk(session, "bind a queue") as desk:
        desk.queue_bind(queue, exchange, routing_key)


@amqp.command("queue.delete", cls=Group.command_class)
@click.argument("queue")
@_flags("if_unused", "if_empty")
@pass_session
def queue_delete(session: Session, /, queue: str, if_unused: bool, if_empty: bool) -> None:
    """Delete a queue with its messages; prints how many."""
    with _desk(session, "delete a queue") as desk:
        click.echo(f"{output.count(desk.queue_delete(queue, if_unused, if_empty) or 0, 'message')} deleted.")


@amqp.command("queue.purge", cls=Group.command_class)
@click.argument("queue")
@pass_session
def queue_purge(session: Session, /, queue: str) -> None:
    """Delete the waiting messages of a queue; prints how many."""
    with _desk(session, "purge a queue") as desk:
        click.echo(f"{output.count(desk.queue_purge(queue) or 0, 'message')} deleted.")


@amqp.command("basic.get", cls=Group.command_class)
@click.argument("queue")
@_flags("no_ack")
@pass_session
def basic_get(session: Session, /, queue: str, no_ack: bool) -> None:
    """Show the first message of a queue; with no_ack also take it.

    Else it goes back, marked as redelivered.
    """
    from celeriac.engines.rabbitmq.wire import body_of

    with _desk(session, "get a message") as desk:
        message = desk.basic_get(queue, no_ack=no_ack)
        if message is None:
            click.echo("There is no message in the queue.")
            return
        place = {
            key: message.delivery_info[key]
            for key in ("exchange", "routing_key", "redelivered", "message_count")
        }
        output.dump({"body": body_of(message), "properties": message.properties, "delivery_info": place})
        if not no_ack:
            desk.basic_reject(message.delivery_tag, requeue=True)


@amqp.command("basic.publish", cls=Group.command_class)
@click.argument("msg")
@click.argument("exchange")
@click.argument("routing_key")
@_flags("mandatory")
@pass_session
def basic_publish(session: Session, /, msg: str, exchange: str, routing_key: str, mandatory: bool) -> None:
    """Publish MSG, and wait until the server has it; with mandatory a queue must take it."""
    from celeriac.engines.rabbitmq.session import Parcel, unroutable
    from celeriac.engines.rabbitmq.wire import Content

    broker = _rabbit(session)
    content = Content(msg.encode(), delivery_mode=2)
    with broker.session("publish a message") as link:
        returned = link.publish([Parcel(exchange, routing_key, content, mandatory)], broker.publish_timeout)
        if returned:
            raise unroutable(returned, link.shown)
    click.secho("OK.", fg="green", bold=True)
