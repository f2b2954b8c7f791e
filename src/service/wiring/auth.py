"""The auth feature: passwords, sessions, tokens, keys, and who calls."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gatelodge.auth.v1 import auth_pb2_grpc, keys_pb2_grpc, revocations_pb2_grpc, sessions_pb2_grpc, tokens_pb2_grpc
from uuid_utils.compat import uuid7

from service import options
from service.auth.accounts import Accounts
from service.auth.authentication import Authentication
from service.auth.checking import PasswordCheck
from service.auth.devices import Devices
from service.auth.introspection import Introspection
from service.auth.key_ring import KeyFollower
from service.auth.key_servicer import SigningKeyServicer
from service.auth.login import Login
from service.auth.password_change import PasswordChange
from service.auth.profile import Profile
from service.auth.revocation_servicer import RevocationServicer
from service.auth.revocation_stream import RevocationStream
from service.auth.revocations import Revocations
from service.auth.sealing import derive
from service.auth.servicer import AuthServicer
from service.auth.sessions.ending import Ending
from service.auth.sessions.listing import SessionListing
from service.auth.sessions.logout import Logout
from service.auth.sessions.opening import Opening
from service.auth.sessions.refresh_tokens import RefreshTokens
from service.auth.sessions.refreshing import Refreshing
from service.auth.sessions.retention import SessionRetention
from service.auth.sessions.servicer import SessionServicer
from service.auth.throttle import Throttle
from service.auth.token_servicer import TokenServicer
from service.auth.tokens import TokenIssuer
from service.auth.verification import TokenVerifier
from service.events.journal import Journal
from service.jobs import Job
from service.users.directory import Directory
from service.wiring.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.auth.hashing import Hasher
    from service.db import Database
    from service.settings import Settings
    from service.telemetry.metrics import Metrics
    from service.users.guard import Guard
    from service.wiring.feature import AddService
    from service.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """What others take from auth, and what it brings."""

    accounts: Accounts
    throttle: Throttle
    ending: Ending
    authentication: Authentication
    revocations: Revocations
    feature: Feature


def auth(ground: Ground, guard: Guard, permissions_of: Callable[[frozenset[str]], frozenset[str]]) -> Auth:
    """Build it. `permissions_of` tells what roles allow now."""
    ending = Ending(journal=ground.journal, clock=ground.clock, terms=options.session_terms(ground.settings.auth))
    throttle = _throttle(ground)
    revocations = _revocations(ground)
    authentication = Authentication(
        verify=TokenVerifier(
            terms=options.terms(ground.settings.auth),
            keys=ground.keys,
            clock=ground.clock,
            remember=ground.settings.auth.token_cache_size,
        ),
        learn=ground.keys.learn,
        revocations=revocations,
        permissions_of=permissions_of,
        database=ground.database,
        clock=ground.clock,
    )
    made = accounts(ground.settings, ground.database, ground.hasher, ground.metrics)
    retention = SessionRetention(database=ground.database, clock=ground.clock)
    return Auth(
        accounts=made,
        throttle=throttle,
        ending=ending,
        authentication=authentication,
        revocations=revocations,
        feature=Feature(
            services={
                **_people(ground, made, throttle, ending, guard),
                **_tokens(ground, ending, authentication),
            },
            jobs=(
                Job("keys.rotate", timedelta(minutes=5), ground.rotation.rotate),
                Job("sessions.prune", timedelta(hours=1), retention.prune),
                Job("throttle.prune", timedelta(hours=1), throttle.prune),
            ),
            tasks={
                "revocations": revocations.run,
                "signing-keys": KeyFollower(ring=ground.keys, record=ground.record, feed=ground.feed).run,
            },
        ),
    )


def accounts(settings: Settings, database: Database, hasher: Hasher, metrics: Metrics) -> Accounts:
    """Return what makes accounts."""
    return Accounts(
        database=database,
        directory=Directory(database=database, new_id=uuid7),
        hasher=hasher,
        journal=Journal(new_id=uuid7),
        registration_open=settings.auth.registration == "open",
        count=metrics.registration,
    )


def _throttle(ground: Ground) -> Throttle:
    return Throttle(
        database=ground.database,
        terms=options.throttle_terms(ground.settings.auth),
        key=derive(ground.root, "gatelodge/throttle/v1"),
        clock=ground.clock,
        refused=ground.metrics.attempt_refused,
    )


def _revocations(ground: Ground) -> Revocations:
    return Revocations(
        record=ground.record,
        feed=ground.feed,
        clock=ground.clock,
        window=options.revocation_window(ground.settings.auth),
        staleness=ground.settings.auth.revocation_staleness_seconds,
        lag=ground.metrics.revocation_lag,
    )


def _refresh_tokens(ground: Ground) -> RefreshTokens:
    return RefreshTokens(key=derive(ground.root, "gatelodge/refresh-tokens/v1"), random=secrets.token_bytes)


def _people(
    ground: Ground, accounts: Accounts, throttle: Throttle, ending: Ending, guard: Guard
) -> dict[str, AddService]:
    """Return the services for people: logging in, and the sessions that this opens."""
    database, clock, terms = ground.database, ground.clock, options.session_terms(ground.settings.auth)
    issuer = TokenIssuer(terms=options.terms(ground.settings.auth), keys=ground.keys, clock=clock, new_id=uuid7)
    devices = Devices(
        key=derive(ground.root, "gatelodge/device-tokens/v1"),
        lifetime=timedelta(days=ground.settings.auth.device_token_days),
        clock=clock,
        random=secrets.token_bytes,
    )
    check = PasswordCheck(database=database, hasher=ground.hasher, throttle=throttle, devices=devices)
    opening = Opening(
        database=database,
        journal=ground.journal,
        ending=ending,
        issuer=issuer,
        refresh_tokens=_refresh_tokens(ground),
        clock=clock,
        new_id=uuid7,
        terms=terms,
    )
    logout = Logout(database=database, ending=ending, terms=terms, may_act_on=guard.may_act_on)
    profile = Profile(directory=Directory(database=database, new_id=uuid7))
    people = AuthServicer(
        accounts=accounts,
        check=check,
        login=Login(
            database=database,
            check=check,
            hasher=ground.hasher,
            policy=ground.policy,
            devices=devices,
            opening=opening,
            count=ground.metrics.login,
        ),
        password_change=PasswordChange(
            database=database,
            profile=profile,
            check=check,
            hasher=ground.hasher,
            policy=ground.policy,
            ending=ending,
            journal=ground.journal,
        ),
        refreshing=Refreshing(
            database=database,
            ending=ending,
            issuer=issuer,
            refresh_tokens=_refresh_tokens(ground),
            clock=clock,
            terms=terms,
            count=ground.metrics.refresh,
        ),
        logout=logout,
        profile=profile,
        policy=ground.policy,
    )
    listing = SessionListing(database=database, tokens=ground.pages, clock=clock, terms=terms)
    sessions = SessionServicer(listing=listing, logout=logout)
    return {
        "gatelodge.auth.v1.AuthService": partial(auth_pb2_grpc.add_AuthServiceServicer_to_server, people),
        "gatelodge.auth.v1.SessionService": partial(sessions_pb2_grpc.add_SessionServiceServicer_to_server, sessions),
    }


def _tokens(ground: Ground, ending: Ending, authentication: Authentication) -> dict[str, AddService]:
    """Return the services for those who check tokens, and for who looks after the keys."""
    settings, window = ground.settings.auth, options.revocation_window(ground.settings.auth)
    tokens = TokenServicer(
        keys=ground.keys,
        introspection=Introspection(
            authentication=authentication,
            refresh_tokens=_refresh_tokens(ground),
            database=ground.database,
            ending=ending,
            terms=options.terms(settings),
            idle=options.session_terms(settings).idle,
            clock=ground.clock,
        ),
    )
    stream = RevocationStream(record=ground.record, feed=ground.feed, clock=ground.clock, window=window)
    revocations = RevocationServicer(stream=stream, window=window, cursors=ground.cursors("revocation-cursors"))
    keys = SigningKeyServicer(rotation=ground.rotation)
    return {
        "gatelodge.auth.v1.TokenService": partial(tokens_pb2_grpc.add_TokenServiceServicer_to_server, tokens),
        "gatelodge.auth.v1.RevocationService": partial(
            revocations_pb2_grpc.add_RevocationServiceServicer_to_server, revocations
        ),
        "gatelodge.auth.v1.SigningKeyService": partial(keys_pb2_grpc.add_SigningKeyServiceServicer_to_server, keys),
    }
