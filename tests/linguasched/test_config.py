"""The configuration: defaults, file and environment give one checked object, or one message that says what to do."""

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from dispatch import conf
from dispatch.conf import Config, ConfigError, FailureThreshold, check, value_of
from linguasched.config import RETIRED, SETTINGS, TABLES, Loaded, load

SAMPLE = Path(__file__).parents[2] / "config.toml"


def load_file(tmp_path: Path, text: str, **environ: str) -> Loaded:
    path = tmp_path / "linguasched.toml"
    path.write_text(text)
    return load({"LINGUASCHED_CONFIG": str(path), **environ})


def refusal(tmp_path: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_file(tmp_path, text, **environ)
    return str(refused.value)


class TestSources:
    def test_nothing_configured_means_the_built_in_defaults(self):
        loaded = load({})
        assert loaded.config == Config()
        assert loaded.path is None
        assert set(loaded.origins.values()) == {"default"}

    def test_a_file_in_the_working_directory_is_not_read(self, tmp_path, monkeypatch):
        (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
        monkeypatch.chdir(tmp_path)
        assert load({}).config.server.port == 5010

    def test_the_environment_wins_over_the_file_and_the_file_over_the_default(self, tmp_path):
        loaded = load_file(
            tmp_path,
            '[server]\nport = 6000\nhost = "0.0.0.0"\n',
            LINGUASCHED__SERVER__PORT="7000",
        )
        assert (loaded.config.server.port, loaded.config.server.host) == (7000, "0.0.0.0")  # noqa: S104  only a value
        assert loaded.origins["server.port"] == "environment"
        assert loaded.origins["server.host"] == "file"
        assert loaded.origins["model_hub.base_url"] == "default"

    def test_every_key_has_an_origin(self):
        assert list(load({}).origins) == list(SETTINGS)

    def test_the_data_dir_is_var_here_unless_named(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert load({}).data_dir == tmp_path / "var"
        assert load({"LINGUASCHED_DATA_DIR": "/srv/data"}).data_dir == Path("/srv/data")

    def test_an_empty_variable_names_no_file(self):
        assert load({"LINGUASCHED_CONFIG": ""}).path is None

    def test_a_file_that_is_not_there_is_refused_by_name(self, tmp_path):
        with pytest.raises(ConfigError, match=r"nowhere\.toml.*cannot be read"):
            load({"LINGUASCHED_CONFIG": str(tmp_path / "nowhere.toml")})

    def test_a_file_that_is_no_toml_is_refused_with_the_line(self, tmp_path):
        assert "line 2" in refusal(tmp_path, "[server]\nport = \n")


class TestEnvironment:
    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("server.port", "6001", 6001),
            ("scheduler.load_balancer.cpu_threshold", "70.5", 70.5),
            ("scheduler.load_balancer.cpu_threshold", "70", 70.0),
            ("scheduler.load_balancer.resource_threshold", "60", 60.0),
            ("scheduler.phase2.enabled", "true", True),
            ("scheduler.phase2.enabled", "0", False),
            ("scheduler.phase2.instance_id", "17", "17"),
            ("scheduler.phase2.redis.password", "12,[3", "12,[3"),
            ("scheduler.phase3.pool_match_mode", "exact", "exact"),
        ],
    )
    def test_a_value_takes_the_type_of_its_key(self, key, text, value):
        loaded = load({"LINGUASCHED__" + key.upper().replace(".", "__"): text})
        assert value_of(loaded.config, key) == value
        assert loaded.origins[key] == "environment"

    @pytest.mark.parametrize("text", ["redis://a:1, redis://b:2", '["redis://a:1", "redis://b:2"]'])
    def test_a_list_is_written_with_commas_or_as_json(self, text):
        loaded = load(
            {
                "LINGUASCHED__SCHEDULER__PHASE2__ENABLED": "true",
                "LINGUASCHED__SCHEDULER__PHASE2__REDIS__MODE": "cluster",
                "LINGUASCHED__SCHEDULER__PHASE2__REDIS__CLUSTER_URLS": text,
            }
        )
        assert loaded.config.scheduler.phase2.redis.cluster_urls == ("redis://a:1", "redis://b:2")

    def test_pools_can_be_given_as_json(self):
        loaded = load({"LINGUASCHED__SCHEDULER__PHASE3__POOLS": '[{"pool_id": 3, "name": "gold"}]'})
        assert loaded.config.scheduler.phase3.pools == (conf.Pool(pool_id=3, name="gold"),)

    @pytest.mark.parametrize("text", ["many", "4.5", "", "-1", "70000"])
    def test_a_value_of_the_wrong_type_is_refused_with_its_variable(self, text):
        with pytest.raises(ConfigError, match=r"server\.port = .*Expected `int`.*LINGUASCHED__SERVER__PORT"):
            load({"LINGUASCHED__SERVER__PORT": text})

    def test_an_unknown_variable_is_refused_with_the_nearest_one(self):
        with pytest.raises(ConfigError, match=r"did you mean LINGUASCHED__SCHEDULER__PHASE2__INSTANCE_ID\?"):
            load({"LINGUASCHED__SCHEDULER__PHASE2__INSTANCEID": "a"})

    def test_no_table_is_proposed_for_a_variable(self):
        with pytest.raises(ConfigError, match=r"LINGUASCHED__SCHEDULER__FOO: is not a known key; see the sample"):
            load({"LINGUASCHED__SCHEDULER__FOO": "1"})

    def test_a_variable_that_names_a_table_is_refused(self):
        with pytest.raises(ConfigError, match=r"names the table \[scheduler.phase2\]"):
            load({"LINGUASCHED__SCHEDULER__PHASE2": "{}"})


class TestUnknownKeys:
    def test_a_typo_is_refused_with_the_nearest_key(self, tmp_path):
        message = refusal(tmp_path, "[scheduler.phase2]\nowner_tll_seconds = 45\n")
        assert "scheduler.phase2.owner_tll_seconds: is not a known key" in message
        assert "did you mean scheduler.phase2.owner_ttl_seconds?" in message

    def test_an_unknown_table_is_refused(self, tmp_path):
        assert "shceduler: is not a known key; did you mean scheduler?" in refusal(tmp_path, "[shceduler.phase2]\n")

    def test_a_key_in_the_wrong_table_is_shown_its_place(self, tmp_path):
        assert "did you mean scheduler.phase3.random_sample_size?" in refusal(
            tmp_path, "[server]\nrandom_sample_size = 3\n"
        )

    def test_a_value_where_a_table_belongs_is_refused(self, tmp_path):
        assert "scheduler.phase2 = true: is a table" in refusal(tmp_path, "[scheduler]\nphase2 = true\n")

    def test_an_unknown_key_of_a_pool_is_refused_with_its_place(self, tmp_path):
        message = refusal(tmp_path, "[[scheduler.phase3.pools]]\npool_id = 1\nshape = 2\n")
        assert "at [0]: Object contains unknown field `shape`" in message

    @pytest.mark.parametrize("key", RETIRED)
    def test_a_key_of_the_first_generation_says_what_became_of_it(self, key, tmp_path):
        assert key not in SETTINGS
        assert "no longer a key" in refusal(tmp_path, f"{key} = true\n")

    def test_all_mistakes_are_told_at_once(self, tmp_path):
        message = refusal(
            tmp_path,
            '[server]\nport = "x"\nhots = 1\n[scheduler.phase3]\nmode = "fast"\n',
            LINGUASCHED__SCHEDULER__AUTH__NODES="maybe",
        )
        assert 'server.port = "x": Expected `int`, got `str`' in message
        assert "server.hots: is not a known key" in message
        assert 'scheduler.phase3.mode = "fast": choose one of "two_level"' in message
        assert 'scheduler.auth.nodes = "maybe": choose one of "open"' in message
        assert len(message.splitlines()) == 5


class TestRelations:
    """What has to hold between values; each case breaks one relation and names the key to change."""

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("[scheduler]\nmax_concurrent_jobs_per_node = 65\n", "scheduler.max_concurrent_jobs_per_node"),
            ("[scheduler]\njob_timeout_seconds = 121\n", "scheduler.job_timeout.lease_ceiling_seconds"),
            ("[scheduler.job_timeout]\nunsent_ms = 30000\n", "scheduler.job_timeout.unsent_ms"),
            ("[scheduler.task_binding]\nlease_seconds = 59\n", "scheduler.task_binding.lease_seconds"),
            ("[scheduler.load_balancer]\ncpu_threshold = 100.5\n", "scheduler.load_balancer.cpu_threshold"),
            ("[scheduler.load_balancer]\nmemory_threshold = -1\n", "scheduler.load_balancer.memory_threshold"),
            (
                "[scheduler.node_health]\nheartbeat_timeout_seconds = 29\n",
                "scheduler.node_health.heartbeat_timeout_seconds",
            ),
            ("[scheduler.node_health]\nrecovery_count = 6\n", "scheduler.node_health.recovery_count"),
            (
                "[scheduler.node_health.failure_threshold]\nfailure_count = 6\n",
                "scheduler.node_health.failure_threshold.failure_count",
            ),
            (
                "[scheduler.node_health.failure_threshold]\nconsecutive_failure_count = 6\n",
                "scheduler.node_health.failure_threshold.consecutive_failure_count",
            ),
            ("[scheduler.web_task_segmentation]\npause_ms = 20000\n", "scheduler.web_task_segmentation.pause_ms"),
            (
                "[scheduler.web_task_segmentation.edge_stabilization]\nhangover_auto_ms = 3000\n",
                "scheduler.web_task_segmentation.edge_stabilization.hangover_auto_ms",
            ),
            ("[scheduler.limits]\nsession_frame_bytes = 500000\n", "scheduler.limits.session_frame_bytes"),
            ('[scheduler.phase2]\ninstance_id = "a b"\n', "scheduler.phase2.instance_id"),
            (f'[scheduler.phase2]\ninstance_id = "{"a" * 65}"\n', "scheduler.phase2.instance_id"),
            ('[scheduler.phase2]\nstream_group = ""\n', "scheduler.phase2.stream_group"),
            ("[scheduler.phase2]\nowner_ttl_seconds = 3\n", "scheduler.phase2.owner_ttl_seconds"),
            ("[scheduler.phase2]\nisolation_seconds = 3\n", "scheduler.phase2.isolation_seconds"),
            ('[scheduler.phase2.redis]\nkey_prefix = "{x}"\n', "scheduler.phase2.redis.key_prefix"),
            ('[scheduler.phase2.redis]\nmode = "single"\n', "scheduler.phase2.redis.mode"),
            ('[scheduler.phase2.redis]\nurl = "redis://db:6379"\n', "scheduler.phase2.redis.url"),
            ('[scheduler.phase2.redis]\nsentinel_urls = ["redis://s:1"]\n', "scheduler.phase2.redis.sentinel_urls"),
        ],
    )
    def test_a_broken_relation_names_its_key(self, text, key, tmp_path):
        problems = refusal(tmp_path, text).splitlines()[1:]
        assert [problem.strip().split(" ")[0].rstrip(":") for problem in problems] == [key]

    @pytest.mark.parametrize(
        ("redis", "key"),
        [
            ('mode = "single"\nurl = ""', "url"),
            ('mode = "single"\nurl = "db:6379"', "url"),
            ('mode = "cluster"\nurl = ""', "cluster_urls"),
            ('mode = "cluster"\ncluster_urls = ["unix:///run/redis.sock"]', "cluster_urls"),
            ('mode = "sentinel"', "sentinel_urls"),
            ('mode = "single"\nsentinel_urls = ["redis://s:1"]', "sentinel_urls"),
        ],
    )
    def test_redis_needs_addresses_that_its_mode_can_use(self, redis, key, tmp_path):
        text = f"[scheduler.phase2]\nenabled = true\n[scheduler.phase2.redis]\n{redis}\n"
        assert f"scheduler.phase2.redis.{key} = " in refusal(tmp_path, text)

    @pytest.mark.parametrize(
        "redis",
        [
            'mode = "embedded"',
            'mode = "single"\nurl = "unix:///run/redis.sock"',
            'mode = "single"\nurl = "rediss://user:pw@db:6379/2"',
            'mode = "cluster"\nurl = "redis://db:7000"',
            'mode = "cluster"\ncluster_urls = ["redis://a:1", "redis://b:2"]',
            'mode = "sentinel"\nsentinel_urls = ["redis://s:26379"]',
        ],
    )
    def test_each_way_to_redis_can_be_configured(self, redis, tmp_path):
        load_file(tmp_path, f"[scheduler.phase2]\nenabled = true\n[scheduler.phase2.redis]\n{redis}\n")

    @pytest.mark.parametrize(
        ("phase3", "words"),
        [
            ("pools = [{pool_id = 1}, {pool_id = 1}]", "pool_id 1 is given twice"),
            ('pools = [{pool_id = 1, name = "a"}, {pool_id = 2, name = "a"}]', 'name "a" is given twice'),
            ('tenant_overrides = [{tenant_id = "t", pool_id = 9}]', 'tenant "t" names pool 9'),
            (
                "pools = [{pool_id = 1}]\n"
                'tenant_overrides = [{tenant_id = "t", pool_id = 1}, {tenant_id = "t", pool_id = 1}]',
                'tenant "t" is bound twice',
            ),
        ],
    )
    def test_pools_and_bindings_have_to_fit_together(self, phase3, words, tmp_path):
        assert words in refusal(tmp_path, f"[scheduler.phase3]\n{phase3}\n")

    def test_the_defaults_break_nothing(self):
        assert check(Config()) == ()

    def test_a_replaced_value_can_be_checked_too(self):
        health = msgspec.structs.replace(
            Config().scheduler.node_health, failure_threshold=FailureThreshold(window_size=2, failure_count=2)
        )
        scheduler = msgspec.structs.replace(Config().scheduler, node_health=health)
        (problem,) = check(msgspec.structs.replace(Config(), scheduler=scheduler))
        assert problem.key == "scheduler.node_health.failure_threshold.consecutive_failure_count"


class TestResourceThreshold:
    def test_the_older_key_sets_cpu_and_gpu(self, tmp_path):
        loaded = load_file(tmp_path, "[scheduler.load_balancer]\nresource_threshold = 60\n")
        balancer = loaded.config.scheduler.load_balancer
        assert (balancer.cpu_threshold, balancer.gpu_threshold, balancer.memory_threshold) == (60, 60, 95)
        assert loaded.origins["scheduler.load_balancer.gpu_threshold"] == "file"

    def test_a_newer_key_beside_it_keeps_its_own_value(self, tmp_path):
        loaded = load_file(tmp_path, "[scheduler.load_balancer]\nresource_threshold = 60\ngpu_threshold = 90\n")
        balancer = loaded.config.scheduler.load_balancer
        assert (balancer.cpu_threshold, balancer.gpu_threshold) == (60, 90)


class TestSecrets:
    def test_a_password_is_not_shown_in_a_refusal(self, tmp_path):
        message = refusal(
            tmp_path,
            '[scheduler.phase2.redis]\nurl = "redis://me:hunter2@db:6379"\npassword = 5\n',
        )
        assert "hunter2" not in message
        assert "password = 5" not in message
        assert "***" in message


class TestSample:
    """The shipped config.toml: it loads, has every key, and explains each with the sentence that stands in the code."""

    def test_it_loads_and_switches_both_phases_on(self):
        loaded = load({"LINGUASCHED_CONFIG": str(SAMPLE)})
        assert loaded.config.scheduler.phase2.enabled
        assert loaded.config.scheduler.phase3.enabled

    def test_everything_else_but_language_pools_has_its_default(self):
        loaded = load({"LINGUASCHED_CONFIG": str(SAMPLE)})
        changed = {key for key in SETTINGS if value_of(loaded.config, key) != value_of(Config(), key)}
        assert changed == {
            "scheduler.phase2.enabled",
            "scheduler.phase3.enabled",
            "scheduler.phase3.auto_generate_language_pools",
        }

    def test_every_key_is_explained_by_the_sentence_in_the_code(self):
        assert self.explained_in_the_sample() == self.explained_in_the_code()

    def explained_in_the_code(self) -> dict[str, str]:
        tables = {"": Config} | {table: type(value_of(Config(), table)) for table in TABLES}
        tables |= {"scheduler.phase3.pools": conf.Pool, "scheduler.phase3.tenant_overrides": conf.TenantOverride}
        found = {}
        for table, struct in tables.items():
            for sentence, name in re.findall(r"^    #: (.+)\n    (\w+):", inspect.getsource(struct), re.MULTILINE):
                found[f"{table}.{name}"] = sentence
        # These two are shown as tables of their own.
        del found["scheduler.phase3.pools"], found["scheduler.phase3.tenant_overrides"]
        return found

    def explained_in_the_sample(self) -> dict[str, str]:
        found, table, sentence = {}, "", ""
        for line in SAMPLE.read_text().splitlines():
            if heading := re.fullmatch(r"(?:# )?\[+([a-z0-9_.]+)\]+", line):
                table = heading[1]
            elif key := re.fullmatch(r"(?:# )?([a-z_]+) = .*", line):
                found[f"{table}.{key[1]}"] = sentence
            else:
                sentence = line.removeprefix("# ").removeprefix("# ")
        return found


def test_every_key_says_what_it_is():
    structs = [struct for _, struct in inspect.getmembers(conf, inspect.isclass) if struct.__module__ == conf.__name__]
    tables = [struct for struct in structs if issubclass(struct, msgspec.Struct) and struct is not conf.Problem]
    for table in tables:
        source = inspect.getsource(table)
        for field in msgspec.structs.fields(table):
            nested = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
            assert nested or re.search(rf"    #: .+\n    {field.name}: ", source), f"{table.__name__}.{field.name}"
