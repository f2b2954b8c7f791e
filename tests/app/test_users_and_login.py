"""Users and login, end to end: through the real server, over a real socket, to a real PostgreSQL."""

import asyncio
import unicodedata
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import jwt
import pytest
from argon2 import PasswordHasher
from gatelodge.auth.v1 import auth_pb2, tokens_pb2
from gatelodge.info.v1 import info_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, failure


async def test_a_newcomer_registers_logs_in_and_sees_themselves(client: Client) -> None:
    await client.auth.Register(
        auth_pb2.RegisterRequest(email="Ada@Example.com", password=PASSWORD, display_name=" Ada ")
    )
    ada = await client.login("ada@example.COM")
    me = (await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata)).user
    assert (me.id, me.email, me.display_name) == (ada.user_id, "Ada@Example.com", "Ada")
    assert me.state == users_pb2.User.STATE_ACTIVE
    assert not me.email_verified
    assert not me.HasField("delete_time")
    assert uuid.UUID(me.id).version == 7
    assert abs(me.create_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_password_works_however_the_keyboard_composes_it(client: Client) -> None:
    password = "café au lait, s'il vous plaît"
    await client.register("ada@example.com", unicodedata.normalize("NFD", password))
    await client.login("ada@example.com", unicodedata.normalize("NFC", password))


async def test_an_access_token_verifies_offline_with_the_published_keys(client: Client) -> None:
    ada = await client.user()
    jwks = (await client.tokens.GetJwks(tokens_pb2.GetJwksRequest())).keys
    kid = jwt.get_unverified_header(ada.token)["kid"]
    (key,) = [key for key in jwks if key.kid == kid]
    jwk = jwt.PyJWK({"kty": key.kty, "crv": key.crv, "x": key.x, "y": key.y, "alg": key.alg})
    claims = jwt.decode(ada.token, jwk.key, algorithms=["ES256"], audience="gatelodge", issuer="gatelodge")
    assert claims["sub"] == ada.user_id


async def test_registering_a_taken_address_answers_alike_and_changes_nothing(client: Client) -> None:
    await client.register("ada@example.com")
    await client.register("ADA@example.com", "another password altogether")
    await client.login("ada@example.com")
    assert len(await client.sql("SELECT 1 FROM users")) == 1


async def test_a_hundred_registrations_of_one_address_in_every_spelling_leave_one_user(client: Client) -> None:
    spellings = [
        "jürgen@bücher.example",
        "JÜRGEN@bücher.example",
        unicodedata.normalize("NFD", "jürgen@bücher.example"),
        "Jürgen@xn--bcher-kva.example",
        "jürgen@BÜCHER.EXAMPLE",
    ]
    await asyncio.gather(*(client.register(spellings[number % len(spellings)]) for number in range(100)))
    assert await client.sql("SELECT count(*), count(DISTINCT email_canonical) FROM users") == [(1, 1)]
    assert await client.sql("SELECT count(*) FROM passwords") == [(1,)]


async def test_login_fails_alike_for_unknown_wrong_disabled_deleted_and_passwordless(client: Client) -> None:
    await client.user("wrong@example.com")
    for email, change in (
        ("disabled@example.com", "UPDATE users SET state = 'disabled' WHERE email = %s"),
        ("deleted@example.com", "UPDATE users SET delete_time = now() WHERE email = %s"),
        ("passwordless@example.com", "DELETE FROM passwords USING users WHERE user_id = id AND email = %s"),
    ):
        await client.register(email)
        await client.sql(change, email)
    attempts = [
        ("unknown@example.com", PASSWORD),
        ("wrong@example.com", "not the right password"),
        ("disabled@example.com", PASSWORD),
        ("deleted@example.com", PASSWORD),
        ("passwordless@example.com", PASSWORD),
    ]
    failures = [
        await failure(client.auth.Login(auth_pb2.LoginRequest(email=email, password=password)))
        for email, password in attempts
    ]
    assert {(f.code, f.reason, f.message, tuple(f.info.metadata)) for f in failures} == {
        (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_FAILED", failures[0].message, ())
    }
    assert len({len(bytes(f.metadata["grpc-status-details-bin"])) for f in failures}) == 1  # type: ignore[arg-type]


async def test_a_disabled_user_sees_themselves_no_longer(client: Client) -> None:
    ada = await client.user()
    await client.sql("UPDATE users SET state = 'disabled'")
    refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_a_login_brings_an_old_hash_to_todays_parameters(client: Client) -> None:
    await client.register("ada@example.com")
    await client.sql("UPDATE passwords SET hash = %s", PasswordHasher(1, 128, 1).hash(PASSWORD))
    await client.login("ada@example.com")
    ((stored,),) = await client.sql("SELECT hash FROM passwords")
    assert "m=128," not in stored
    await client.login("ada@example.com")


async def test_a_stored_hash_with_ruinous_parameters_is_not_computed(client: Client) -> None:
    await client.register("ada@example.com")
    await client.sql("UPDATE passwords SET hash = regexp_replace(hash, 'm=[0-9]+', 'm=4194304')")
    async with asyncio.timeout(15):
        refused = await failure(client.auth.Login(auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD)))
    assert refused.reason == "LOGIN_FAILED"


async def test_an_administrator_creates_gets_and_looks_up_users(client: Client) -> None:
    root = await client.administrator()
    request = users_pb2.CreateUserRequest(email="Bob@Example.com", display_name="Bob", password=PASSWORD)
    created = (await client.users.CreateUser(request, metadata=root.metadata)).user
    by_id = await client.users.GetUser(users_pb2.GetUserRequest(user_id=created.id), metadata=root.metadata)
    by_email = await client.users.LookupUser(
        users_pb2.LookupUserRequest(email="BOB@example.com"), metadata=root.metadata
    )
    assert by_id.user == by_email.user == created
    assert (await client.login("bob@example.com")).user_id == created.id


async def test_several_users_come_in_the_order_of_their_ids_all_or_none(client: Client) -> None:
    root = await client.administrator()
    ids = [(await client.user(f"{name}@example.com")).user_id for name in ("ada", "bob", "cyd")]
    wanted = [ids[2], ids[0], ids[1], ids[0]]
    answer = await client.users.BatchGetUsers(users_pb2.BatchGetUsersRequest(user_ids=wanted), metadata=root.metadata)
    assert [user.id for user in answer.users] == wanted
    missing = str(uuid.uuid4())
    refused = await failure(
        client.users.BatchGetUsers(users_pb2.BatchGetUsersRequest(user_ids=[*ids, missing]), metadata=root.metadata)
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    assert refused.info.metadata["user_id"] == missing
    refused = await failure(
        client.users.BatchGetUsers(users_pb2.BatchGetUsersRequest(user_ids=["1"]), metadata=root.metadata)
    )
    assert set(refused.fields) == {"user_ids[0]"}


async def test_a_user_without_a_password_is_made_and_cannot_log_in(client: Client) -> None:
    root = await client.administrator()
    await client.users.CreateUser(users_pb2.CreateUserRequest(email="bob@example.com"), metadata=root.metadata)
    for password in ("", PASSWORD):
        refused = await failure(client.auth.Login(auth_pb2.LoginRequest(email="bob@example.com", password=password)))
        assert refused.code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT}


async def test_creating_a_user_with_a_taken_address_is_refused_to_those_who_may_know(client: Client) -> None:
    root = await client.administrator()
    for validate_only in (False, True):
        request = users_pb2.CreateUserRequest(email="ROOT@example.com", validate_only=validate_only)
        refused = await failure(client.users.CreateUser(request, metadata=root.metadata))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")


async def test_validate_only_checks_everything_and_changes_nothing(client: Client) -> None:
    root = await client.administrator()
    request = users_pb2.CreateUserRequest(email="bob@example.com", password=PASSWORD, validate_only=True)
    answer = await client.users.CreateUser(request, metadata=root.metadata)
    assert answer.user.email == "bob@example.com"
    assert await client.sql("SELECT 1 FROM users WHERE email = 'bob@example.com'") == []


async def test_every_field_at_fault_is_named_at_once(client: Client) -> None:
    refused = await failure(
        client.auth.Register(auth_pb2.RegisterRequest(email="nobody", password="short", display_name="a\nb"))
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert set(refused.fields) == {"email", "password", "display_name"}
    assert refused.fields["password"] == "must be at least 15 characters"


async def test_users_may_read_themselves_and_for_them_nobody_else_exists(client: Client) -> None:
    ada, bob = await client.user("ada@example.com"), await client.user("bob@example.com")
    own = await client.users.GetUser(users_pb2.GetUserRequest(user_id=ada.user_id), metadata=ada.metadata)
    assert own.user.id == ada.user_id
    hidden = [
        await failure(client.users.GetUser(users_pb2.GetUserRequest(user_id=user_id), metadata=ada.metadata))
        for user_id in (bob.user_id, str(uuid.uuid4()), "not-a-uuid", "")
    ]
    root = await client.administrator()
    missing = await failure(
        client.users.GetUser(users_pb2.GetUserRequest(user_id=str(uuid.uuid4())), metadata=root.metadata)
    )
    for refused in hidden:
        assert (refused.code, refused.reason, refused.message) == (missing.code, missing.reason, missing.message)
    assert missing.code is grpc.StatusCode.NOT_FOUND


async def test_only_those_with_the_permission_create_and_look_up(client: Client) -> None:
    ada = await client.user()
    create = users_pb2.CreateUserRequest(email="not an address")
    for call, permission in (
        (client.users.CreateUser(create, metadata=ada.metadata), "users.create"),
        (client.users.LookupUser(users_pb2.LookupUserRequest(), metadata=ada.metadata), "users.read"),
        (client.users.BatchGetUsers(users_pb2.BatchGetUsersRequest(), metadata=ada.metadata), "users.read"),
    ):
        refused = await failure(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        assert refused.info.metadata["permission"] == permission


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Bearer x.y.z", "Bearer " + "a" * 9000]
)
async def test_a_bad_credential_is_refused_with_the_same_words_whatever_is_wrong(client: Client, header: str) -> None:
    refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=(("authorization", header),)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    assert refused.message == "the credential is not valid: log in again"


async def test_a_call_without_a_credential_is_told_what_to_send(client: Client) -> None:
    refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert "Bearer" in refused.message


async def test_the_server_tells_its_build(client: Client) -> None:
    ada = await client.user()
    answer = await client.info.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=ada.metadata)
    assert answer.version
    assert len(answer.commit) == 40 or answer.commit == "unknown"
    assert answer.start_time.ToDatetime(UTC) <= datetime.now(UTC)
