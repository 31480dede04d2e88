"""Network cells that grow while they are searched [JG Alg. 2].

Grow a cell on your own returns, then train what was found from scratch and test it once:

    import numpy as np
    import growdarts

    returns = np.random.default_rng(0).normal(size=(600, 3))  # yours: (days, features), oldest first
    series = growdarts.series_from_returns(returns, window=5, cuts=(360, 480, 600))  # validation, test, end
    task, settings = growdarts.ForecastTask(series, batch_size=128), growdarts.SearchSettings.usual(search_epochs=10)
    network = growdarts.two_input_forecaster(features=3, hidden=16, n_layers=1, n_nodes=1, operations=settings.operations)
    result = growdarts.Search(network, task, settings).run()
    cell = growdarts.derived_forecaster(result.genotype, features=3, hidden=16)
    growdarts.fit(cell, cell.theta_parameters(), task, settings)
    print(result.genotype.to_json(), task.evaluate(cell, "test"))

`Search` needs a search space and a task: `SearchSpace` and `Task` say what these have to offer. The files of this folder are
the method; `spaces` has what can be searched, `tasks` what it can be trained for, `drawing` the pictures.
"""

from importlib.metadata import distributions

from growdarts.checkpoints import Checkpoint
from growdarts.forms import plain_forms
from growdarts.history import SearchResult
from growdarts.search import Search
from growdarts.settings import SearchSettings
from growdarts.space import SearchSpace
from growdarts.spaces.genotype import genotype_from_dict
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.two_input.network import derived_forecaster, two_input_forecaster
from growdarts.spaces.two_input.operations import two_input
from growdarts.tasks.images import ImageTask
from growdarts.tasks.language import LanguageModel, LanguageTask
from growdarts.tasks.series import ForecastTask, series_from_returns
from growdarts.training import Task, fit

__all__ = ["Checkpoint", "ForecastTask", "ImageTask", "LanguageModel", "LanguageTask", "RecurrentSearchCell", "Search",
           "SearchImageNetwork", "SearchResult", "SearchSettings", "SearchSpace", "Task", "derived_forecaster", "fit",
           "genotype_from_dict", "plain_forms", "series_from_returns", "two_input", "two_input_forecaster"]
__version__ = next((found.version for found in distributions(name="growdarts")), "not installed")
