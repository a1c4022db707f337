from tests.experiments.pages import rewrite
from tests.experiments.words import PAGE, page

rewrite(PAGE, page)
