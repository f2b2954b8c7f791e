"""The users feature."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2_grpc
from uuid_utils.compat import uuid7

from service.auth.explanation import LoginExplainer
from service.auth.password_setting import PasswordSetting
from service.jobs import Job
from service.users.directory import Directory
from service.users.export import Export
from service.users.lifecycle import Lifecycle
from service.users.listing import Listing
from service.users.servicer import UserServicer
from service.wiring.feature import Feature

if TYPE_CHECKING:
    from service.users.guard import Guard
    from service.wiring.auth import Auth
    from service.wiring.ground import Ground


def users(ground: Ground, auth: Auth, guard: Guard) -> Feature:
    """Build it."""
    database = ground.database
    directory = Directory(database=database, new_id=uuid7)
    lifecycle = Lifecycle(
        database=database,
        journal=ground.journal,
        answers=ground.answers,
        guard=guard,
        end_all=auth.ending.end_all,
        clock=ground.clock,
        retention=timedelta(days=ground.settings.users.retention_days),
    )
    servicer = UserServicer(
        directory=directory,
        listing=Listing(database=database, tokens=ground.pages),
        export=Export(database=database, tokens=ground.pages),
        lifecycle=lifecycle,
        accounts=auth.accounts,
        explainer=LoginExplainer(database=database, directory=directory, throttle=auth.throttle),
        password_setting=PasswordSetting(
            database=database,
            directory=directory,
            hasher=ground.hasher,
            policy=ground.policy,
            ending=auth.ending,
            journal=ground.journal,
            guard=guard,
        ),
        policy=ground.policy,
    )
    return Feature(
        services={
            "gatelodge.users.v1.UserService": partial(users_pb2_grpc.add_UserServiceServicer_to_server, servicer)
        },
        jobs=(
            Job("idempotency.prune", timedelta(minutes=10), ground.answers.prune),
            Job("users.purge", timedelta(hours=1), lifecycle.purge),
        ),
    )
