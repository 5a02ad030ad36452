"""What the chapters draw, play and check with. The core never imports it.

    figures/    pictures of a state: tree, pages, requests, charts, maps
    films/      recorded steps: a strip on paper, frames for a slider
    checks/     oracles, contracts, cache states, broken copies that must be caught
    widgets/    what the reader plays with; above each stands its `static()`

A chapter imports all it shows from here, whichever room it lies in.
"""

from typing import TYPE_CHECKING

from radix_lib._door import door
from radix_lib.texts import few_shot_prompts, workload

if TYPE_CHECKING:
    from radix_lib.teaching.checks.beliefs import measure_beliefs as measure_beliefs
    from radix_lib.teaching.checks.building import method_of as method_of
    from radix_lib.teaching.checks.cache_exercises import (
        Leaf as Leaf,
        finishes as finishes,
        foretells_locks as foretells_locks,
        is_segmented as is_segmented,
        pops_in_order as pops_in_order,
    )
    from radix_lib.teaching.checks.cache_states import (
        CACHE_STATES as CACHE_STATES,
        compare_states as compare_states,
        tiny_model as tiny_model,
    )
    from radix_lib.teaching.checks.check import cases as cases, check as check
    from radix_lib.teaching.checks.contracts import (
        caches_like_the_oracle as caches_like_the_oracle,
        counts_the_holders as counts_the_holders,
        matches_like_the_oracle as matches_like_the_oracle,
        serves_requests as serves_requests,
    )
    from radix_lib.teaching.checks.equality_exercises import (
        merges_halves as merges_halves,
    )
    from radix_lib.teaching.checks.exact_schedules import (
        compare_schedule as compare_schedule,
    )
    from radix_lib.teaching.checks.executor_exercises import (
        attends_by_page as attends_by_page,
    )
    from radix_lib.teaching.checks.fleet_exercises import (
        counts_the_drift as counts_the_drift,
        keeps_tenants_apart as keeps_tenants_apart,
        spreads as spreads,
        spreads_cold_prompts as spreads_cold_prompts,
        takes_the_better_of_two as takes_the_better_of_two,
    )
    from radix_lib.teaching.checks.generation_exercises import (
        Stop as Stop,
        counts_sample_pages as counts_sample_pages,
        searches_on_forks as searches_on_forks,
        stops_at_text as stops_at_text,
    )
    from radix_lib.teaching.checks.mutants import (
        MUTANTS as MUTANTS,
        LastBitFlipped as LastBitFlipped,
        Mutant as Mutant,
        examine as examine,
    )
    from radix_lib.teaching.checks.oracle import Memory as Memory
    from radix_lib.teaching.checks.page_exercises import (
        forks_pages as forks_pages,
        keeps_page_0 as keeps_page_0,
        reads_back as reads_back,
    )
    from radix_lib.teaching.checks.reuse_exercises import (
        computes_in_pieces as computes_in_pieces,
    )
    from radix_lib.teaching.checks.router_exercises import (
        bills_right as bills_right,
        reading as reading,
        samples_apart as samples_apart,
        stop_inside as stop_inside,
        survives_interruptions as survives_interruptions,
        tells_the_truth as tells_the_truth,
    )
    from radix_lib.teaching.checks.schedule_exercises import (
        counts_the_good as counts_the_good,
        foretells_steps as foretells_steps,
        keeps_the_gap as keeps_the_gap,
        leaves_intervals as leaves_intervals,
        serves_in_turns as serves_in_turns,
        serves_shortest_first as serves_shortest_first,
    )
    from radix_lib.teaching.checks.scheduler_bugs import FIELD_BUGS as FIELD_BUGS
    from radix_lib.teaching.checks.schedules import (
        RememberingModel as RememberingModel,
        play_schedule as play_schedule,
    )
    from radix_lib.teaching.checks.scheduling_mutants import (
        SCHEDULING_MUTANTS as SCHEDULING_MUTANTS,
        examine_scheduling as examine_scheduling,
    )
    from radix_lib.teaching.checks.six_logs import (
        REASONS as REASONS,
        names_the_reasons as names_the_reasons,
        served_log as served_log,
    )
    from radix_lib.teaching.checks.tree_exercises import (
        merges_nodes as merges_nodes,
        tells_collisions_apart as tells_collisions_apart,
    )
    from radix_lib.teaching.checks.workload_exercises import (
        counts_users as counts_users,
        finds_a_name as finds_a_name,
        keeps_its_history as keeps_its_history,
        mru_beats_lru as mru_beats_lru,
        shares_the_most as shares_the_most,
    )
    from radix_lib.teaching.figures.bar_charts import (
        draw_damage as draw_damage,
        draw_sharing as draw_sharing,
        draw_tokens as draw_tokens,
    )
    from radix_lib.teaching.figures.books_figure import draw_books as draw_books
    from radix_lib.teaching.figures.canvas import (
        MARGIN as MARGIN,
        Canvas as Canvas,
        compose as compose,
    )
    from radix_lib.teaching.figures.chart import Chart as Chart
    from radix_lib.teaching.figures.course_map import (
        chapter_map as chapter_map,
        course_map as course_map,
    )
    from radix_lib.teaching.figures.cut_figure import draw_cut as draw_cut
    from radix_lib.teaching.figures.fleet_charts import (
        draw_policies as draw_policies,
        draw_workers as draw_workers,
    )
    from radix_lib.teaching.figures.heap_figure import draw_heap as draw_heap
    from radix_lib.teaching.figures.line_charts import (
        draw_hit_rate as draw_hit_rate,
        draw_lines as draw_lines,
        draw_page_sizes as draw_page_sizes,
        draw_prediction as draw_prediction,
        draw_time_to_first_token as draw_time_to_first_token,
    )
    from radix_lib.teaching.figures.mask_figure import draw_mask as draw_mask
    from radix_lib.teaching.figures.moments import (
        arena_moment as arena_moment,
        pool_moment as pool_moment,
    )
    from radix_lib.teaching.figures.page_figure import draw_pages as draw_pages
    from radix_lib.teaching.figures.pool_map import draw_pool_map as draw_pool_map
    from radix_lib.teaching.figures.reuse_charts import (
        draw_attention as draw_attention,
        draw_same as draw_same,
        draw_turned_key as draw_turned_key,
    )
    from radix_lib.teaching.figures.scene import draw_scene as draw_scene
    from radix_lib.teaching.figures.schedule_figure import (
        draw_schedule as draw_schedule,
    )
    from radix_lib.teaching.figures.schedule_timeline import Timeline as Timeline
    from radix_lib.teaching.figures.side_by_side import SideBySide as SideBySide
    from radix_lib.teaching.figures.source import show_source as show_source
    from radix_lib.teaching.figures.split_figure import draw_split as draw_split
    from radix_lib.teaching.figures.theme import STATES as STATES
    from radix_lib.teaching.figures.tile_chart import draw_tiles as draw_tiles
    from radix_lib.teaching.figures.tree_figure import draw_tree as draw_tree
    from radix_lib.teaching.figures.workload_figure import (
        draw_cached_tree as draw_cached_tree,
        draw_workload_trees as draw_workload_trees,
    )
    from radix_lib.teaching.films.film import film_strip as film_strip
    from radix_lib.teaching.films.recorder import Recorder as Recorder
    from radix_lib.teaching.widgets.base import (
        Lab as Lab,
        Stepper as Stepper,
        decode as decode,
        encode as encode,
        labelled as labelled,
    )
    from radix_lib.teaching.widgets.eviction_lab import EvictionLab as EvictionLab
    from radix_lib.teaching.widgets.fleet_lab import FleetLab as FleetLab
    from radix_lib.teaching.widgets.live_chat import LiveChat as LiveChat
    from radix_lib.teaching.widgets.page_explorer import PageExplorer as PageExplorer
    from radix_lib.teaching.widgets.router_walk import RouterWalk as RouterWalk
    from radix_lib.teaching.widgets.scheduler_lab import SchedulerLab as SchedulerLab
    from radix_lib.teaching.widgets.tree_explorer import TreeExplorer as TreeExplorer
    from radix_lib.teaching.widgets.workload_lab import WorkloadLab as WorkloadLab
else:
    _HOME = {
        "draw_damage": "figures.bar_charts",
        "draw_sharing": "figures.bar_charts",
        "draw_tokens": "figures.bar_charts",
        "draw_books": "figures.books_figure",
        "Canvas": "figures.canvas",
        "MARGIN": "figures.canvas",
        "compose": "figures.canvas",
        "Chart": "figures.chart",
        "chapter_map": "figures.course_map",
        "course_map": "figures.course_map",
        "draw_cut": "figures.cut_figure",
        "draw_policies": "figures.fleet_charts",
        "draw_workers": "figures.fleet_charts",
        "draw_heap": "figures.heap_figure",
        "draw_hit_rate": "figures.line_charts",
        "draw_lines": "figures.line_charts",
        "draw_page_sizes": "figures.line_charts",
        "draw_prediction": "figures.line_charts",
        "draw_time_to_first_token": "figures.line_charts",
        "draw_mask": "figures.mask_figure",
        "arena_moment": "figures.moments",
        "pool_moment": "figures.moments",
        "draw_pages": "figures.page_figure",
        "draw_pool_map": "figures.pool_map",
        "draw_attention": "figures.reuse_charts",
        "draw_same": "figures.reuse_charts",
        "draw_turned_key": "figures.reuse_charts",
        "draw_scene": "figures.scene",
        "draw_schedule": "figures.schedule_figure",
        "Timeline": "figures.schedule_timeline",
        "SideBySide": "figures.side_by_side",
        "show_source": "figures.source",
        "draw_split": "figures.split_figure",
        "STATES": "figures.theme",
        "draw_tiles": "figures.tile_chart",
        "draw_tree": "figures.tree_figure",
        "draw_cached_tree": "figures.workload_figure",
        "draw_workload_trees": "figures.workload_figure",
        "film_strip": "films.film",
        "Recorder": "films.recorder",
        "measure_beliefs": "checks.beliefs",
        "method_of": "checks.building",
        "Leaf": "checks.cache_exercises",
        "finishes": "checks.cache_exercises",
        "foretells_locks": "checks.cache_exercises",
        "is_segmented": "checks.cache_exercises",
        "pops_in_order": "checks.cache_exercises",
        "CACHE_STATES": "checks.cache_states",
        "compare_states": "checks.cache_states",
        "tiny_model": "checks.cache_states",
        "cases": "checks.check",
        "check": "checks.check",
        "caches_like_the_oracle": "checks.contracts",
        "counts_the_holders": "checks.contracts",
        "matches_like_the_oracle": "checks.contracts",
        "serves_requests": "checks.contracts",
        "merges_halves": "checks.equality_exercises",
        "attends_by_page": "checks.executor_exercises",
        "compare_schedule": "checks.exact_schedules",
        "counts_the_drift": "checks.fleet_exercises",
        "keeps_tenants_apart": "checks.fleet_exercises",
        "spreads": "checks.fleet_exercises",
        "spreads_cold_prompts": "checks.fleet_exercises",
        "takes_the_better_of_two": "checks.fleet_exercises",
        "Stop": "checks.generation_exercises",
        "counts_sample_pages": "checks.generation_exercises",
        "searches_on_forks": "checks.generation_exercises",
        "stops_at_text": "checks.generation_exercises",
        "LastBitFlipped": "checks.mutants",
        "MUTANTS": "checks.mutants",
        "Mutant": "checks.mutants",
        "examine": "checks.mutants",
        "Memory": "checks.oracle",
        "forks_pages": "checks.page_exercises",
        "keeps_page_0": "checks.page_exercises",
        "reads_back": "checks.page_exercises",
        "computes_in_pieces": "checks.reuse_exercises",
        "bills_right": "checks.router_exercises",
        "reading": "checks.router_exercises",
        "samples_apart": "checks.router_exercises",
        "stop_inside": "checks.router_exercises",
        "survives_interruptions": "checks.router_exercises",
        "tells_the_truth": "checks.router_exercises",
        "counts_the_good": "checks.schedule_exercises",
        "foretells_steps": "checks.schedule_exercises",
        "keeps_the_gap": "checks.schedule_exercises",
        "leaves_intervals": "checks.schedule_exercises",
        "serves_in_turns": "checks.schedule_exercises",
        "serves_shortest_first": "checks.schedule_exercises",
        "FIELD_BUGS": "checks.scheduler_bugs",
        "RememberingModel": "checks.schedules",
        "play_schedule": "checks.schedules",
        "SCHEDULING_MUTANTS": "checks.scheduling_mutants",
        "examine_scheduling": "checks.scheduling_mutants",
        "REASONS": "checks.six_logs",
        "names_the_reasons": "checks.six_logs",
        "served_log": "checks.six_logs",
        "merges_nodes": "checks.tree_exercises",
        "tells_collisions_apart": "checks.tree_exercises",
        "counts_users": "checks.workload_exercises",
        "finds_a_name": "checks.workload_exercises",
        "keeps_its_history": "checks.workload_exercises",
        "mru_beats_lru": "checks.workload_exercises",
        "shares_the_most": "checks.workload_exercises",
        "Lab": "widgets.base",
        "Stepper": "widgets.base",
        "decode": "widgets.base",
        "encode": "widgets.base",
        "labelled": "widgets.base",
        "EvictionLab": "widgets.eviction_lab",
        "FleetLab": "widgets.fleet_lab",
        "LiveChat": "widgets.live_chat",
        "PageExplorer": "widgets.page_explorer",
        "RouterWalk": "widgets.router_walk",
        "SchedulerLab": "widgets.scheduler_lab",
        "TreeExplorer": "widgets.tree_explorer",
        "WorkloadLab": "widgets.workload_lab",
    }
    __all__ = [*_HOME, "few_shot_prompts", "workload"]
    __getattr__, __dir__ = door(__name__, _HOME)
